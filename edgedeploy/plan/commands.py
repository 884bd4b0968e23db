"""The commands that a row is made of, and what has to stay the same for their results to hold."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.model import identify
from edgedeploy.plan.file import LOCAL, Plan, Row
from edgedeploy.records import canonical
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set

Argv = tuple[str, ...]


def export_command(plan: Plan, row: Row, folder: Path) -> Argv:
    """``edgedeploy export`` into ``folder``."""
    model = plan.file.models[row.model]
    flags = {
        "--device": plan.profile(row),
        "--precision": row.precision,
        "--backend": row.backend,
        "--calibrate": None if model.calibrate is None else plan.path(model.calibrate),
        "--split": model.split,
        "--imgsz": model.imgsz,
        "--head": model.head,
    }
    return ("export", plan.path(model.checkpoint), *_given(flags), "--output", str(folder), "--json")


def bench_command(plan: Plan, row: Row, bundle: Path, history: bool = True) -> Argv:
    """``edgedeploy bench`` of ``bundle`` on the row's device."""
    entry, way = plan.file.scenarios[row.scenario], plan.way(row)
    name = entry.scenario or row.scenario
    flags = {
        "--on": None if way == LOCAL else way,
        "--device": None if way is None or "://" not in way else plan.profile(row),  # a target knows its profile
        "--threads": plan.file.devices[row.device].threads,
        "--scenario": None if name == "single-stream" else name,
        "--duration": entry.duration,
        "--processes": entry.processes,
        "--rate": entry.rate,
        "--deadline": entry.deadline,
        "--samples-per-query": entry.samples_per_query,
        "--engine": entry.engine,
        "--precision": entry.precision,
    }
    switches = [*(["--until-stable"] if entry.until_stable else []), *([] if history else ["--no-history"])]
    return ("bench", str(bundle), *_given(flags), *switches, "--json")


def compare_command(plan: Plan, row: Row, bundle: Path, history: bool = True) -> Argv | None:
    """``edgedeploy compare`` of ``bundle`` with its checkpoint; ``None`` where the model has no data set for it."""
    model = plan.file.models[row.model]
    if model.accuracy is None:
        return None
    flags = {"--data": plan.path(model.accuracy), "--limit": model.limit, "--show": 0}
    return (
        "compare",
        plan.path(model.checkpoint),
        str(bundle),
        *_given(flags),
        *([] if history else ["--no-history"]),
        "--json",
    )


def bundle_folder(plan: Plan, row: Row, output: Path) -> Path:
    """Where the row's bundle is: shared by all rows that differ in scenario only, or in device but not in profile."""
    variant = f"{row.backend or 'default'}-{row.precision or 'default'}"
    return output / "bundles" / row.model / Path(plan.profile(row)).stem / variant


class Stamps:
    """Digests of what commands read. Each file is looked at once: a plan sees one state of its inputs."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], str] = {}

    def export_key(self, plan: Plan, row: Row) -> str:
        """Equal for two exports of the same checkpoint and images with the same options and edgedeploy."""
        model = plan.file.models[row.model]
        splits = ("train", "val") if model.split is None else (model.split,)
        calibration = "" if model.calibrate is None else self._data(plan.path(model.calibrate), *splits)
        command = export_command(plan, row, Path())
        profile = plan.profile(row)
        stamps = [self._model(plan.path(model.checkpoint)), calibration, self._file(profile), version("edgedeploy")]
        return _digest("export", command[2:], stamps)

    def bench_key(self, plan: Plan, row: Row, artifact: str) -> str:
        """Equal for two benchmarks of the same artifact on the same device with the same options."""
        return _digest("bench", bench_command(plan, row, Path())[2:], [artifact, row.device, version("edgedeploy")])

    def compare_key(self, plan: Plan, row: Row, artifact: str) -> str | None:
        """Equal for two comparisons of the same artifact with the same checkpoint on the same images."""
        model, command = plan.file.models[row.model], compare_command(plan, row, Path())
        if model.accuracy is None or command is None:
            return None
        checkpoint, data = plan.path(model.checkpoint), plan.path(model.accuracy)
        stamps = [artifact, self._model(checkpoint), self._data(data, "val")]
        return _digest("compare", command[3:], stamps)

    def _model(self, reference: str) -> str:
        return self._once(("model", reference), lambda: identify(reference).sha256)

    def _file(self, path: str) -> str:
        found = Path(path)
        return hashlib.sha256(found.read_bytes()).hexdigest() if found.is_file() else path

    def _data(self, path: str, *splits: str) -> str:
        """Of the first of these splits that there is."""

        def stamp() -> str:
            *others, last = splits
            for split in others:
                with contextlib.suppress(UsageError):
                    return _of_data(read_detection_set(path, split))
            return _of_data(read_detection_set(path, last))

        return self._once(("data", path, *splits), stamp)

    def _once(self, key: tuple[str, ...], make: Callable[[], str]) -> str:
        if key not in self._seen:
            try:
                self._seen[key] = make()
            except (EdgeDeployError, OSError):  # the command will say what is wrong
                self._seen[key] = "unreadable"
        return self._seen[key]


def _of_data(data: DetectionSet) -> str:
    """Over labels, annotations, and name, size and time of every image; their bytes would take too long."""
    total = hashlib.sha256(canonical(list(data.labels)))
    for sample in data.samples:
        status = sample.image.stat()
        total.update(canonical([str(sample.image), status.st_size, status.st_mtime_ns]))
        for item in dataclasses.fields(sample):
            value = getattr(sample, item.name)
            total.update(value.tobytes() if hasattr(value, "tobytes") else str(value).encode())
    return total.hexdigest()


def _digest(step: str, command: Argv, stamps: list[str]) -> str:
    return hashlib.sha256(canonical([step, list(command), stamps])).hexdigest()


def _given(flags: dict[str, Any]) -> list[str]:
    return [text for flag, value in flags.items() if value is not None for text in (flag, str(value))]
