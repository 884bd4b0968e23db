"""The demonstration: export, bench and compare, once in fp32 and once in int8."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.interleave import interleave
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.run import BenchOptions, bench
from edgedeploy.comparison import Compared, Comparison, compare
from edgedeploy.demo.scenes import write_dataset
from edgedeploy.exporter import Request
from edgedeploy.pipeline import evidence_from, export_checkpoint
from edgedeploy.report.pictures import side_by_side
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set
from edgedeploy.tensors import random_input
from edgedeploy.units import show

Progress = Callable[[str], None]
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Side:
    """One precision: where its bundle is, bytes of its graphs, the measurement with its doubts, the comparison."""

    precision: str
    artifact: str
    model_size: int
    measurement: Measurement
    doubts: tuple[str, ...]
    comparison: Comparison


@dataclass(frozen=True)
class Shown:
    """What the demonstration made. ``speed`` is how many times as fast as the first side each one is, from calls in
    turn; ``picture`` is a PNG.
    """

    sides: tuple[Side, ...]
    speed: tuple[float, ...]
    picture: str


def prepare(output: Path, scenes: int, say: Progress) -> tuple[Path, Path]:
    """The packaged checkpoint copied to ``output``, and a data set of scenes written there, unless it is there.

    Returns:
        The checkpoint and data.yaml.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "aerial.safetensors"
    with as_file(files("edgedeploy") / "demo" / "aerial.safetensors") as packaged:
        shutil.copyfile(packaged, checkpoint)
    data = output / f"scenes-{scenes}" / "data.yaml"
    if not data.is_file():
        say(f"rendering {2 * scenes} scenes")
        write_dataset(data.parent, train=scenes, val=scenes)
    return checkpoint, data


def run(checkpoint: Path, data: Path, output: Path, duration: float, say: Progress) -> Shown:
    """Export, measure for ``duration`` seconds each, compare on the validation scenes, and draw.

    Raises:
        EdgeDeployError: see `export_checkpoint`, `bench` and `compare`.
    """
    training, validation = read_detection_set(data, "train"), read_detection_set(data, "val")
    sides, results = [], []
    for precision in PRECISIONS:
        exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, {})
        request = Request(exporter, evidence_from(training, len(training)))
        artifact = export_checkpoint(str(checkpoint), request, output / precision, say).artifact
        say(f"measuring {precision}")
        measurement = bench(artifact.path, BenchOptions(duration=duration))
        compared = compare(str(checkpoint), artifact.path, validation, say=say)
        results.append(compared)
        sides.append(
            Side(
                precision,
                str(artifact.path),
                artifact.model_size,
                measurement,
                doubts(measurement),
                compared.comparison,
            )
        )
    say("timing both in turn")
    speed = _speed([Artifact.open(side.artifact) for side in sides], duration)
    return Shown(tuple(sides), speed, str(_picture(output / "demo.png", validation, results[-1])))


def table(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """Columns and a row per precision, FP32 PyTorch first."""
    reference = shown.sides[0].comparison.reference.metric
    columns = ["", "AP50-95", "AP50", "difference (90 %)", "median latency", "speed, 1 thread", "graph", "verdict"]
    rows = [["PyTorch fp32", _ap(reference.ap50_95), _ap(reference.ap50), "-", "-", "-", "-", "-"]]
    for side, speed in zip(shown.sides, shown.speed, strict=True):
        difference, metric = side.comparison.difference.ap50_95, side.comparison.candidate.metric
        rows.append(
            [
                f"artifact {side.precision}",
                _ap(metric.ap50_95),
                _ap(metric.ap50),
                f"{difference.low:+.4f} to {difference.high:+.4f}",
                show(side.measurement.latency, "s"),
                f"{speed:.2f}x",
                show(side.model_size, "B"),
                side.comparison.equivalence.outcome,
            ]
        )
    return columns, rows


def _speed(artifacts: list[Artifact], duration: float) -> tuple[float, ...]:
    """Compute alone, in one process, in turn: on a shared machine, one after the other says nothing.

    One thread each, because the thread pools of two sessions in one process wait for work at each other's cost.
    """
    calls = {}
    for artifact in artifacts:
        runtime = plugins.find(plugins.RUNTIMES, artifact.manifest.exporter.runtime)(threads=1)
        session = runtime.open(artifact.files, artifact.signatures)
        inputs = {spec.name: random_input(spec, {}, seed=0) for spec in artifact.signatures["main"].inputs}
        calls[str(artifact.path)] = partial(session.run, inputs)
    medians = [float(np.median(seconds)) for seconds in interleave(calls, duration).values()]
    return tuple(medians[0] / median for median in medians)


def _ap(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _picture(path: Path, data: DetectionSet, compared: Compared) -> Path:
    """A scene with some twenty objects, as the checkpoint and as the int8 artifact see it."""
    i = min(range(len(data.samples)), key=lambda i: abs(len(data.samples[i].classes) - 20))
    panels = [("PyTorch fp32", compared.reference[i]), ("artifact int8", compared.candidate[i])]
    return side_by_side(path, data.samples[i].image, panels, data.labels)
