"""From the folder of a compression to one table: rungs, data, recipe, lineage, pictures. Needs no torch."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedeploy.bench.environment import collect, imported_packages
from edgedeploy.compress.lineage import Lineage, Step
from edgedeploy.compress.result import CompressionRun
from edgedeploy.compress.training import epochs
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.model import safetensors_metadata
from edgedeploy.records import from_json, to_json
from edgedeploy.report.compression.papers import paper
from edgedeploy.report.compression.records import CompressionTable, Rung, Timing
from edgedeploy.tasks.image import engine
from edgedeploy.tasks.samples import DetectionSet
from edgedeploy.units import show

_NAMES = {
    "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "openvino": "OpenVINO", "executorch": "ExecuTorch",
    "coreml": "Core ML", "qnn": "QNN",
}  # fmt: skip
#: The log of a training, in the trainer's folder.
EPOCHS = "epochs.jsonl"
#: The published figures that stand beside ours.
PAPER = "yolov8_compression"


def in_words(runtime: str) -> str:
    """The name of a runtime as its makers write it."""
    return _NAMES.get(runtime, runtime)


def short(runtime: str) -> str:
    """The same for the name of a rung."""
    return in_words(runtime).removesuffix(" Runtime")


def table_of(
    folder: Path, run: CompressionRun, rungs: Sequence[Rung], data: DetectionSet, timings: Sequence[Timing] = ()
) -> CompressionTable:
    """The table of a run.

    Args:
        folder: of the run; pictures of its trainings are written there.
        run: what came out.
        rungs: its rungs, and those of the bundles made of them.
        data: that accuracy was measured on.
        timings: the runs in which bundles were timed.
    """
    lineage = _lineage(folder, run)
    return CompressionTable(
        rungs=tuple(rungs),
        data=f"{data.name} ({data.split})",
        digest=run.used.val,
        images=len(data),
        instances=data.instances,
        recipe=run.used.recipe.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        timings=tuple(timings),
        settings=to_json(run.used.recipe),
        lineage=(
            f"from {lineage.source}, sha256 {lineage.parent[:12]}; {_data(run)}",
            *(_line(step) for step in lineage.steps),
        ),
        environment=to_json(dataclasses.asdict(collect(None, imported_packages(), engine()))),
        paper=(paper(PAPER),),
        pictures=_pictures(folder),
        doubts=run.doubts,
    )


def _lineage(folder: Path, run: CompressionRun) -> Lineage:
    """That of the last network; of a file that is not ours, or gone, what the run knows."""
    plain = Lineage(run.used.checkpoint, run.used.parent)
    if not run.rungs:
        return plain
    try:
        record = safetensors_metadata(folder / run.rungs[-1].file)
    except (UsageError, OSError):
        return plain
    return from_json(Lineage, record["lineage"], "lineage") if "lineage" in record else plain


def _data(run: CompressionRun) -> str:
    used = run.used
    return f"trained on {Path(used.data).name}, sha256 {used.train[:12]}, judged on sha256 {used.val[:12]}"


def _line(step: Step) -> str:
    """A stage in one sentence: what it did with which settings, what was measured after it."""
    settings = ", ".join(f"{key} {value}" for key, value in _flat(step.settings))
    numbers = ", ".join(f"{key} {_number(value)}" for key, value in step.numbers.items())
    place = ", ".join(f"{key} {step.tools[key]}" for key in ("protocol", "size") if key in step.tools)
    said = f"{step.stage} ({settings}), seed {step.seed}, {step.seconds:.0f} s"
    return f"{said}: {numbers}{f' ({place})' if place else ''}" if numbers else said


def _number(value: float) -> str:
    """Counts as in the table, shares with four digits."""
    return show(value, "") if value >= 1000 else f"{value:.4g}"


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings of nested tables under their last names; what was left empty is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value)
        elif value not in (None, "", [], ()):
            many = isinstance(value, (list, tuple))
            found.append((key, ("x" if key == "size" else " and ").join(map(str, value)) if many else value))
    return found


def _pictures(folder: Path) -> dict[str, str]:
    """A picture of every training, drawn from its log; none where there is no matplotlib."""
    found = {}
    for log in sorted(folder.glob(f"[0-9]-*/{EPOCHS}")):
        stage = log.parent.name.partition("-")[2]
        try:
            epochs.plot(epochs.read(log), folder / f"{stage}.png")
        except (UsageError, Unavailable):
            continue
        small = ", share of small scale factors" if stage == "sparse" else ""
        found[f"{stage}.png"] = f"Stage {stage}: losses, accuracy of the averaged network{small}."
    return found
