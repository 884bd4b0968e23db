"""The same formats by Ultralytics' own export and by ours: time of the export, size, AP, and time of a call.

    python -m benchmarks.peers.ultralytics_export CHECKPOINT --data VAL.json --calibrate T.json --calibrate-yaml T.yaml

Each export is a process of its own, timed from start to exit. What came out is judged by one evaluator on the same
images with the same preprocessing, and timed in turn in one process: their files are opened as their own predictor
opens them (OpenVINO with its latency hint and the precision that it picks by itself). ``--calibrate-yaml`` is the set
of ``--calibrate`` in the form that Ultralytics reads. Ultralytics is optional and AGPL-3.0; nothing of it is shipped
here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.backends import export
from benchmarks.end_to_end import over
from benchmarks.record import CALIBRATION_IMAGES, Row, Timing, dataset, finish, in_turn, parser, pixels, timed
from edgedeploy.accuracy import assess
from edgedeploy.artifact import Artifact
from edgedeploy.golden import Caller
from edgedeploy.opening import open_artifact_here
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tasks.dataset import DetectionSet
from edgedeploy.tensors import Array

Call = Callable[[tuple[Array, ...]], list[Array]]
#: Our backend and precision, their format and bits.
PAIRS = (
    ("onnxruntime", "fp32", "onnx", 32),
    ("onnxruntime", "int8", "onnx", 8),
    ("openvino", "fp32", "openvino", 32),
    ("openvino", "int8", "openvino", 8),
    ("executorch", "fp32", "executorch", 32),
)
#: Run in the process that exports; the last line that it prints is the path.
SCRIPT = """
import sys
from ultralytics import YOLO
checkpoint, form, size, bits, data = sys.argv[1:]
options = {"quantize": 8, "data": data, "fraction": 1.0} if bits == "8" else {}
print(YOLO(checkpoint).export(format=form, imgsz=int(size), verbose=False, **options))
"""


@dataclass(frozen=True)
class Theirs:
    """What Ultralytics wrote, and how long that took."""

    path: Path
    seconds: float

    @property
    def size(self) -> int:
        """Bytes, of all files where it is a folder."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def their_export(checkpoint: Path, form: str, bits: int, size: int, data: Path) -> Theirs | str:
    """Their export of a copy of the checkpoint, or its last words."""
    environment = {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    words = [str(checkpoint), form, str(size), str(bits), str(data)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, env=environment, cwd=checkpoint.parent
    )
    seconds = time.perf_counter() - start
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    return Theirs(checkpoint.parent / lines[-1], seconds)


def their_call(theirs: Theirs, form: str, threads: int) -> Call:
    """A call of their file on so many threads, opened as Ultralytics' predictor does."""
    return {"onnx": _onnx, "openvino": _openvino, "executorch": _executorch}[form](theirs.path, threads)


def _onnx(path: Path, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensors: list(session.run(None, {name: tensors[0]}))


def _openvino(path: Path, threads: int) -> Call:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(next(path.glob("*.xml")), "CPU", options)
    return lambda tensors: [np.asarray(value) for value in compiled([tensors[0]]).values()]


def _executorch(path: Path, threads: int) -> Call:
    from executorch.extension.pybindings import _C

    _C._unsafe_reset_threadpool(threads)
    program = _C._load_for_executorch(str(next(path.glob("*.pte"))))
    return lambda tensors: [value.numpy() for value in program.forward([torch.from_numpy(tensors[0])])]


def our_call(artifact: Artifact, threads: int) -> Call:
    """A call of our artifact."""
    return Caller(open_artifact_here(artifact, threads), artifact.signatures["main"])


def speed(calls: Mapping[str, Call], tensors: list[Array], name: str, duration: float) -> Timing:
    """Theirs and ours in turn, over the same tensors."""
    timed_calls: dict[str, Callable[[], Any]] = {
        who: over(tensors, lambda tensor, call=call: call((tensor,)))  # type: ignore[misc]
        for who, call in calls.items()
    }
    return in_turn(name, timed_calls, duration)


def average_precision(task: Detect, call: Call, data: DetectionSet) -> float:
    """AP50-95."""
    return assess(task, call, data, "").accuracy.metric.ap50_95 or 0.0


def main() -> int:
    """Print a block of rows per format."""
    made = timed(parser(__doc__), 20.0, 8)
    made.add_argument("--calibrate-yaml", type=Path, required=True, help="the calibration set as Ultralytics reads it")
    arguments = made.parse_args()
    data = dataset(arguments.data)
    words = ["--calibrate", str(arguments.calibrate), "--calibration-images", str(CALIBRATION_IMAGES)]
    words += ["--imgsz", str(arguments.size)]
    rows: list[Row] = []
    timings: list[Timing] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / arguments.checkpoint.name
        checkpoint.write_bytes(arguments.checkpoint.read_bytes())
        for backend, precision, form, bits in PAIRS:
            name = f"{form} {precision}"
            theirs = their_export(checkpoint, form, bits, arguments.size, arguments.calibrate_yaml.resolve())
            start = time.perf_counter()
            ours = export(arguments.checkpoint, (backend, precision, ""), words, Path(folder) / "ours")
            taken = time.perf_counter() - start
            if isinstance(theirs, str) or isinstance(ours, str):
                failed.append(f"{name}: theirs: {theirs}; ours: {ours}")
                continue
            task = from_contract(ours.artifact.manifest.task or {})
            assert isinstance(task, Detect)
            tensors = [task.prepare(image).tensors[0] for image in pixels(data, arguments.images)]
            rows += [
                Row(f"{name}: export, theirs", theirs.seconds, "s"),
                Row(f"{name}: export, ours", taken, "s"),
                Row(f"{name}: file, theirs", float(theirs.size), "B"),
                Row(f"{name}: file, ours", float(ours.artifact.model_size), "B"),
            ]
            for threads in arguments.threads:
                calls = {"theirs": their_call(theirs, form, threads), "ours": our_call(ours.artifact, threads)}
                if threads == arguments.threads[0]:
                    scores = {who: average_precision(task, call, data) for who, call in calls.items()}
                    rows += [Row(f"{name}: AP50-95, {who}", score, "AP") for who, score in scores.items()]
                timing = speed(calls, tensors, f"{name}, {threads} threads", arguments.duration)
                ratio, low, high = timing.ratio("theirs", "ours")
                rows.append(Row(f"{name}: theirs / ours, {threads} threads", ratio, "", low=low, high=high))
                timings.append(timing)
    return finish(arguments, rows, timings, {}, {"images": len(data)}, failed)


if __name__ == "__main__":
    sys.exit(main())
