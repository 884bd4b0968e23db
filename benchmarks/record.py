"""What the benchmarks share: an artifact to measure, calls timed in turn, rows against targets, and one JSON file each.

A benchmark is run from the root of the checkout as ``python -m benchmarks.NAME``; what it prints and what it writes to
``benchmarks/results/NAME.json`` is the same, except that the file also has every sample and the conditions.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.bench.environment import collect, imported_packages
from edgedeploy.bench.interleave import BLOCK, interleave
from edgedeploy.bench.telemetry import Counters, between, read_counters
from edgedeploy.errors import Unavailable
from edgedeploy.exporter import Request
from edgedeploy.golden import Caller
from edgedeploy.model import InputShape, file_digest
from edgedeploy.pipeline import evidence_from, export_checkpoint, read_calibration_set
from edgedeploy.records import to_json
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set
from edgedeploy.tasks.image import engine, read_image
from edgedeploy.tensors import Array
from edgedeploy.units import show

SCHEMA = 1
RESULTS = Path(__file__).parent / "results"
#: Images that calibrate int8, at most; and the golden vectors of any precision are chosen among them.
CALIBRATION_IMAGES = 200
#: Draws of the bootstrap over rounds, and the confidence of its interval.
DRAWS, CONFIDENCE = 2000, 0.9


@dataclass(frozen=True)
class Row:
    """One number, with the limit that it was meant to keep, if any; ``low`` and ``high`` bound its interval."""

    name: str
    value: float
    unit: str = ""
    sense: Literal["at most", "at least", ""] = ""
    limit: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Literal["met", "missed", "not decided", ""]:
        """Whether the value keeps the limit, and its whole interval where it has one."""
        if self.limit is None:
            return ""
        values = (self.value, *(end for end in (self.low, self.high) if end is not None))
        kept = [value <= self.limit if self.sense == "at most" else value >= self.limit for value in values]
        return "met" if all(kept) else "not decided" if any(kept) else "missed"


@dataclass(frozen=True, eq=False)
class Timing:
    """Seconds of calls made in turn, by name, and who else used the machine meanwhile."""

    name: str
    seconds: Mapping[str, npt.NDArray[np.float64]]
    load: Mapping[str, float | int | None]

    def median(self, name: str) -> float:
        """Seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self, above: str, below: str) -> tuple[float, float, float]:
        """The ratio of the medians, and its interval from a bootstrap over rounds: what slows a round slows both."""
        one, other = (self.seconds[name].reshape(-1, BLOCK) for name in (above, below))
        picks = np.random.default_rng(0).integers(0, len(one), (DRAWS, len(one)))
        drawn = np.median(one[picks].reshape(DRAWS, -1), axis=1) / np.median(other[picks].reshape(DRAWS, -1), axis=1)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return self.median(above) / self.median(below), float(low), float(high)


def in_turn(name: str, calls: Mapping[str, Callable[[], object]], duration: float) -> Timing:
    """The calls, `interleave`\\ d for ``duration`` seconds."""
    before = read_counters()
    seconds = interleave(calls, duration)
    return Timing(name, seconds, load_since(before))


def load_since(before: Counters, children: bool = False) -> dict[str, float | int | None]:
    """Shares of the machine that others used since then (0 to 1), and how often this process was interrupted.

    Where ``children`` did the work, what they used cannot be told from what others used, and is left out.
    """
    telemetry = between(before, read_counters(), 0.0, (None, None))
    load: dict[str, float | int | None] = {"steal": telemetry.steal, "pressure": telemetry.pressure}
    if not children:
        load |= {"foreign": telemetry.foreign, "involuntary_switches": telemetry.involuntary_switches}
    return load


def parser(description: str | None, *, calibrates: bool = True) -> argparse.ArgumentParser:
    """Arguments that the benchmarks of a detector have in common."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("checkpoint", type=Path, help="of a detector")
    made.add_argument("--data", type=Path, required=True, help="data.yaml or COCO json to measure on")
    if calibrates:
        made.add_argument("--calibrate", type=Path, required=True, help="data.yaml or COCO json of other images")
    made.add_argument("--size", type=int, default=640, help="height and width of the input (640)")
    made.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/NAME.json)")
    return made


def timed(made: argparse.ArgumentParser, duration: float, images: int) -> argparse.ArgumentParser:
    """The same with the arguments of a timing over images."""
    made.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to time with (1 2)")
    made.add_argument("--duration", type=float, default=duration, help=f"seconds per number of threads ({duration:g})")
    made.add_argument("--images", type=int, default=images, help=f"images that take turns ({images})")
    return made


def exported(checkpoint: Path, precision: str, calibrate: Path, size: int, directory: Path) -> Artifact:
    """The artifact of ``checkpoint`` for this machine."""
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, {})
    evidence = evidence_from(read_calibration_set(calibrate, None), CALIBRATION_IMAGES)
    request = Request(exporter, evidence, InputShape(size=(size, size)))
    return export_checkpoint(str(checkpoint), request, directory / precision, _say).artifact


def detection_task(artifact: Artifact) -> Detect:
    """The artifact's contract, which has to be a detector's."""
    task = from_contract(artifact.manifest.task or {})
    if not isinstance(task, Detect):
        raise SystemExit(f"{artifact.path} is no detector.")
    return task


def caller(artifact: Artifact, threads: int | None = None) -> Caller:
    """A session of the artifact's graph."""
    runtime = plugins.find(plugins.RUNTIMES, artifact.manifest.exporter.runtime)(threads=threads)
    return Caller(runtime.open(artifact.files, artifact.signatures), artifact.signatures["main"])


def pixels(data: DetectionSet, count: int) -> list[Array]:
    """The first images of a data set, decoded: uint8 RGB."""
    return [read_image(sample.image) for sample in data.samples[:count]]


def limit_opencv(threads: int) -> None:
    """Resize with so many threads, where OpenCV is installed; it would take all cores else."""
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)


def dataset(path: Path) -> DetectionSet:
    """The part of a data set on which accuracy is measured."""
    return read_detection_set(path, "val")


def finish(
    arguments: argparse.Namespace,
    rows: Sequence[Row],
    timings: Sequence[Timing] = (),
    inputs: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
    open_questions: Sequence[str] = (),
) -> int:
    """Print the rows and what they do not show, and write everything to the result file; 1 if a target was missed."""
    name = Path(sys.argv[0]).stem
    target = arguments.json or RESULTS / f"{name}.json"
    print(table(rows))
    for timing in timings:
        medians = ", ".join(f"{one} {show(timing.median(one), 's')}" for one in timing.seconds)
        counts = min(len(seconds) for seconds in timing.seconds.values())
        print(f"{timing.name}: medians of {counts}: {medians}; {_foreign(timing.load)}")
    for sentence in open_questions:
        print(f"Not shown: {sentence}")
    document = {
        **conditions(name),
        "inputs": {**_digests(arguments), **(inputs or {})},
        "rows": [{**to_json(row), "verdict": row.verdict} for row in rows],
        "details": to_json(details or {}),
        "not_shown": list(open_questions),
        **{
            f"seconds, {timing.name}": {
                "load": timing.load,
                **{one: [round(float(value), 6) for value in seconds] for one, seconds in timing.seconds.items()},
            }
            for timing in timings
        },
    }
    write(target, document)
    return int(any(row.verdict == "missed" for row in rows))


def conditions(name: str) -> dict[str, Any]:
    """What ran, when, and on what; paths on the command line are cut to their last part."""
    environment = collect(_runtime(), imported_packages(), engine())
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return {
        "schema": SCHEMA,
        "benchmark": name,
        "command": " ".join([f"python -m {_module()}", *words]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": dataclasses.asdict(environment),
    }


def write(target: Path, document: Mapping[str, Any]) -> None:
    """JSON with one line per key of the document, so that samples do not take a line each."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"written: {target.name}", file=sys.stderr)


def table(rows: Sequence[Row]) -> str:
    """A line per row: name, value, interval, target, verdict."""
    cells = [["", "value", "90 % interval", "target", ""]]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"{_text(row.low, row)} to {_text(row.high, row)}"
        target = "" if row.limit is None else f"{row.sense} {_text(row.limit, row)}"
        cells.append([row.name, _text(row.value, row), interval, target, row.verdict])
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: float, row: Row) -> str:
    if row.unit in ("s", "B"):
        return show(value, row.unit)
    return f"{value:.4f}" if row.unit == "AP" else f"{value:.3g}" if row.unit else f"{value:.3f}"


def _foreign(load: Mapping[str, float | int | None]) -> str:
    texts = ["unknown" if share is None else f"{share:.1%}" for share in (load.get("foreign"), load["steal"])]
    return f"others used {texts[0]} of the processors, the hypervisor took {texts[1]}"


def _digests(arguments: argparse.Namespace) -> dict[str, str]:
    paths = {key: value for key, value in vars(arguments).items() if isinstance(value, Path) and value.is_file()}
    return {f"{key} {path.name}": file_digest(path) for key, path in paths.items() if key != "json"}


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _commit() -> str | None:
    """The commit of the checkout, marked where the package or an exporter differs from it."""
    root = Path(__file__).parents[1]
    try:
        commit, changed = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--", "edgedeploy", "exporters"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}, changed" if changed else commit


def _runtime() -> str | None:
    try:
        return f"onnxruntime {plugins.find(plugins.RUNTIMES, 'onnxruntime').version()}"
    except Unavailable:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
