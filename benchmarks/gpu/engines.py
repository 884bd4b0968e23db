"""One detector on the NVIDIA GPU of this machine, in each precision: does the engine compute it, and how fast.

    python -m benchmarks.gpu.engines CHECKPOINT --calibrate data.yaml --data data.yaml

For each precision a build bundle is exported for this machine and its engine is built, run and compared: its outputs
and results on the golden samples with those of PyTorch in FP32, and its AP. Times are taken in turn with the same call
computed on the GPU only (transfers outside), and with recorded launches (CUDA graph). The export can be done elsewhere:
instead of a checkpoint, give bundles with ``--bundles``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Row, Timing, dataset, detection_task, finish, in_turn
from edgedeploy import plugins
from edgedeploy.accuracy import assess
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.compare import agreement
from edgedeploy.exporter import Request
from edgedeploy.golden import Caller, first_row
from edgedeploy.model import InputShape
from edgedeploy.pipeline import evidence_from, export_checkpoint, read_calibration_set
from edgedeploy.runtime import Session, inputs_of

#: Options of the runtime that are timed in turn.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "end to end": {},
    "compute only": {"transfers": "outside"},
    "recorded": {"cuda_graph": True},
    "recorded, compute only": {"cuda_graph": True, "transfers": "outside"},
}


def bundles(arguments: argparse.Namespace, folder: Path) -> list[Artifact]:
    """Those that were given, or those of the checkpoint in every precision, for this machine."""
    if arguments.bundles:
        return [open_artifact(path) for path in arguments.bundles]
    made = []
    for precision in arguments.precisions:
        options = {"flavour": arguments.flavour}
        exporter = plugins.find(plugins.EXPORTERS, "tensorrt").for_device(None, precision, options)
        evidence = evidence_from(read_calibration_set(arguments.calibrate, None), arguments.images)
        request = Request(exporter, evidence, InputShape(size=(arguments.size, arguments.size)))
        made.append(export_checkpoint(str(arguments.checkpoint), request, folder / precision, _say).artifact)
    return made


def opened(artifact: Artifact, options: Mapping[str, Any]) -> Session:
    """A session of the engine itself; where there is none, this ends the benchmark."""
    runtime = plugins.find(plugins.RUNTIMES, "tensorrt")(**options)
    session: Session = runtime.open(artifact.files, artifact.signatures)
    return session


def agreed(artifact: Artifact, session: Session) -> tuple[float, float]:
    """The SNR (dB) of the worst channel, and how far results move, over the golden samples."""
    task, signature = detection_task(artifact), artifact.signatures["main"]
    snr, moved = [], []
    for golden in artifact.manifest.golden:
        sample: Any = artifact.sample(golden)
        prepared = task.prepare(sample)
        wanted = {name: artifact.array(file) for name, file in golden.outputs.items()}
        got = first_row(session.run(inputs_of(signature, prepared.tensors)), signature)
        snr += [one.worst_snr for one in agreement(task.comparable(wanted), task.comparable(got))]
        results = [task.finish(list(outputs.values()), prepared.context) for outputs in (wanted, got)]
        moved.append(task.distance(results[0], results[1]))
    return min(snr), max(moved)


def timed(artifact: Artifact, name: str, duration: float) -> Timing:
    """The same call in every way, in turn."""
    task, signature = detection_task(artifact), artifact.signatures["main"]
    sample: Any = artifact.sample(artifact.manifest.golden[0])
    inputs = inputs_of(signature, task.prepare(sample).tensors)
    sessions = {way: opened(artifact, options) for way, options in WAYS.items()}

    def call(session: Session) -> Callable[[], object]:
        return lambda: session.run(inputs)

    timing = in_turn(name, {way: call(session) for way, session in sessions.items()}, duration)
    for session in sessions.values():
        session.close()
    return timing


def measure(artifact: Artifact, arguments: argparse.Namespace) -> tuple[list[Row], Timing, dict[str, Any]]:
    """Rows, times and facts of one bundle."""
    precision = artifact.manifest.exporter.precision
    session = opened(artifact, {})
    facts = dict(session.facts)
    worst, moved = agreed(artifact, session)
    rows = [
        Row(f"{precision}: build", float(facts["build_time"]), "s"),
        Row(f"{precision}: engine", float(facts["engine_size"]), "B"),
        Row(f"{precision}: worst channel", worst, "dB"),
        Row(f"{precision}: results move by", moved, "", "at most", 0.05 if precision == "fp32" else 0.2),
    ]
    if arguments.data is not None:
        call = Caller(session, artifact.signatures["main"])
        found = assess(detection_task(artifact), call, dataset(arguments.data), artifact.digest).accuracy.metric
        rows.append(Row(f"{precision}: AP50-95", found.ap50_95 or 0.0, "AP"))
    session.close()
    timing = timed(artifact, precision, arguments.duration)
    return [*rows, *speeds(precision, timing)], timing, facts


def speeds(precision: str, timing: Timing) -> list[Row]:
    """Medians, and what the copies and the launches cost."""
    rows = [Row(f"{precision}: {way}", timing.median(way), "s") for way in WAYS]
    for way in ("compute only", "recorded"):
        ratio, low, high = timing.ratio("end to end", way)
        rows.append(Row(f"{precision}: end to end over {way}", ratio, low=low, high=high))
    return rows


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of a detector")
    parser.add_argument("--bundles", type=Path, nargs="+", help="made elsewhere, instead of a checkpoint")
    parser.add_argument("--calibrate", type=Path, help="data.yaml or COCO json of images")
    parser.add_argument("--data", type=Path, help="data.yaml or COCO json to measure AP on")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--flavour", choices=["tensorrt", "rtx"], default="tensorrt")
    parser.add_argument("--size", type=int, default=640, help="height and width of the input (640)")
    parser.add_argument("--images", type=int, default=200, help="to calibrate on, at most")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of timing for each precision (20)")
    parser.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/engines.json)")
    arguments = parser.parse_args(words)
    if not arguments.bundles and (arguments.checkpoint is None or arguments.calibrate is None):
        parser.error("give a checkpoint and --calibrate, or --bundles")
    return arguments


def main() -> int:
    """Print and keep the rows; 1 if an engine does not compute the model."""
    arguments = parse()
    rows: list[Row] = []
    timings, facts = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for artifact in bundles(arguments, Path(folder)):
            found, timing, told = measure(artifact, arguments)
            rows += found
            timings.append(timing)
            facts[artifact.manifest.exporter.precision] = told
    return finish(
        arguments,
        rows,
        timings,
        details=facts,
        open_questions=["clocks and power modes other than the one in force, and a hot board: see power_mode"],
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
