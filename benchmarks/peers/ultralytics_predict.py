"""An image in and boxes out: ours and Ultralytics' `predict`, each with its own ONNX export of the same checkpoint.

    python -m benchmarks.peers.ultralytics_predict CHECKPOINT --data VAL.json --calibrate TRAIN.json

Both sides get decoded images (ours RGB, theirs BGR, as each expects) and the same thresholds, and run ONNX Runtime on
the same number of threads, in turn in one process. Torch and OpenCV, which prepare images on their side, keep the
threads that Ultralytics gives them, but at most as many; OpenCV's setting holds for our side too. Ultralytics is
optional and AGPL-3.0; nothing of it is shipped here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import onnxruntime
import torch

from benchmarks.end_to_end import over
from benchmarks.record import (
    Row,
    Timing,
    caller,
    dataset,
    detection_task,
    exported,
    finish,
    in_turn,
    parser,
    pixels,
    timed,
)
from edgedeploy.accuracy import detector
from edgedeploy.artifact import Artifact
from edgedeploy.tasks.detect import Detect, Detections
from edgedeploy.tasks.nms import suppress
from edgedeploy.tensors import Array


@dataclass
class Suppression:
    """Stands in for ``torchvision.ops.nms`` where torchvision's operators are missing; keeps what its calls took."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
        """Indices of the boxes that remain, best score first."""
        start = time.perf_counter()
        order = scores.argsort(descending=True, stable=True)
        none = np.zeros(len(order), np.int64)  # classes were moved apart by the caller
        kept = order[torch.from_numpy(suppress(boxes[order].numpy(), none, iou_threshold, len(order)))]
        self.seconds.append(time.perf_counter() - start)
        return kept


def stand_in() -> Suppression | None:
    """Supply torchvision's suppression if it is missing; ``None`` where torchvision works and is left alone."""
    try:
        torchvision = importlib.import_module("torchvision")
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (AttributeError, ImportError, RuntimeError):
        suppression = Suppression()
        replaced = types.ModuleType("torchvision")
        replaced.ops = types.SimpleNamespace(nms=suppression)  # type: ignore[attr-defined]
        sys.modules["torchvision"] = replaced
        return suppression
    return None


@dataclass(frozen=True)
class Peer:
    """Ultralytics with a model opened on a number of threads."""

    model: Any
    task: Detect
    size: int

    def predict(self, image: Array) -> Any:
        """The result for one BGR image."""
        return self.model.predict(
            image,
            imgsz=self.size,
            conf=self.task.confidence,
            iou=self.task.iou,
            max_det=self.task.max_detections,
            device="cpu",
            verbose=False,
        )[0]

    @property
    def session(self) -> Any:
        """The ONNX Runtime session inside."""
        return self.model.predictor.model.backend.session


def ultralytics(work: Path) -> Any:
    """The package, told to install nothing, to call nobody, and to keep its settings in ``work``."""
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_CONFIG_DIR=str(work))
    try:
        return importlib.import_module("ultralytics")
    except ImportError:
        raise SystemExit(
            "ultralytics is not installed, so there is nothing to compare with: pip install ultralytics (AGPL-3.0)."
        ) from None


def their_export(package: Any, checkpoint: Path, size: int, work: Path) -> Path:
    """Their ONNX file with their defaults; it is written beside the checkpoint, hence the copy."""
    copy = work / checkpoint.name
    shutil.copyfile(checkpoint, copy)
    return Path(package.YOLO(copy).export(format="onnx", imgsz=size, verbose=False))


def opened(package: Any, path: Path, task: Detect, size: int, threads: int, image: Array) -> Peer:
    """Their model, its session on ``threads``. They give ONNX Runtime no options, so that ours are put in its way."""
    create = onnxruntime.InferenceSession

    def limited(file: str, options: Any = None, **rest: Any) -> Any:
        options = options or onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return create(file, options, **rest)

    peer = Peer(package.YOLO(path, task="detect"), task, size)
    with mock.patch.object(onnxruntime, "InferenceSession", limited):
        peer.predict(image)
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # they set it at the first prediction
    found = peer.session.get_session_options().intra_op_num_threads
    if found != threads:
        raise SystemExit(f"Ultralytics' session runs on {found} threads, not on {threads}.")
    return peer


def agreement(task: Detect, ours: Callable[[Array], Detections], peer: Peer, images: list[Array]) -> dict[str, float]:
    """How far the results are apart, over all images: 0 is the same, 1 is nothing in common."""
    distances, boxes = [], [0, 0]
    for image in images:
        mine, result = ours(image), peer.predict(_bgr(image)).boxes
        theirs = Detections(
            result.xyxy.numpy().astype(np.float32),
            result.conf.numpy().astype(np.float32),
            result.cls.numpy().astype(np.int64),
        )
        distances.append(task.distance(mine, theirs))
        boxes = [boxes[0] + len(mine), boxes[1] + len(theirs)]
    return {
        "distance_mean": float(np.mean(distances)),
        "distance_max": max(distances),
        "boxes_ours": boxes[0],
        "boxes_theirs": boxes[1],
    }


def _bgr(image: Array) -> Array:
    return np.ascontiguousarray(image[..., ::-1])


def measure(artifact: Artifact, peer: Peer, images: list[Array], threads: int, duration: float) -> Timing:
    """Both ends to end, and both bare graphs, in turn."""
    task = detection_task(artifact)
    call = caller(artifact, threads)
    tensors = [task.prepare(image).tensors[0] for image in images]
    theirs, name = peer.session, peer.session.get_inputs()[0].name
    calls: dict[str, Callable[[], object]] = {
        "ours": over(images, detector(task, call)),
        "ultralytics": over([_bgr(image) for image in images], peer.predict),
        "our graph": over(tensors, lambda tensor: call((tensor,))),
        "their graph": over(tensors, lambda tensor: theirs.run(None, {name: tensor})),
    }
    timing = in_turn(f"{threads} threads" if threads > 1 else "1 thread", calls, duration)
    call.session.close()
    return timing


def rows_of(timing: Timing, suppression: float | None) -> list[Row]:
    """Ratios and medians; ``suppression`` are the seconds of the stand-in per prediction."""
    ratio, low, high = timing.ratio("ultralytics", "ours")
    graphs, graphs_low, graphs_high = timing.ratio("their graph", "our graph")
    rows = [Row(f"ultralytics / ours, {timing.name}", ratio, "", "at least", 1.0, low, high)]
    if suppression is not None:
        less = (timing.median("ultralytics") - suppression) / timing.median("ours")
        rows.append(Row("  the same, their suppression taken for free", less, "", "at least", 1.0))
    rows.append(Row("  of the graphs alone", graphs, "", "", None, graphs_low, graphs_high))
    return [*rows, *(Row(f"  {name}, {timing.name}", timing.median(name), "s") for name in timing.seconds)]


def main() -> int:
    """Print ratios per number of threads."""
    arguments = timed(parser(__doc__), 90.0, 32).parse_args()
    images = pixels(dataset(arguments.data), arguments.images)
    rows, timings, agreed = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        package = ultralytics(Path(folder))
        artifact = exported(arguments.checkpoint, "fp32", arguments.calibrate, arguments.size, Path(folder))
        task = detection_task(artifact)
        theirs = their_export(package, arguments.checkpoint, arguments.size, Path(folder))
        suppression = stand_in()
        for threads in arguments.threads:
            peer = opened(package, theirs, task, arguments.size, threads, _bgr(images[0]))
            call = caller(artifact, threads)
            agreed[f"{threads} threads"] = agreement(task, detector(task, call), peer, images)
            call.session.close()
            if suppression is not None:
                suppression.seconds.clear()
            timing = measure(artifact, peer, images, threads, arguments.duration)
            share = None if suppression is None else float(np.median(suppression.seconds))
            rows += rows_of(timing, share)
            timings.append(timing)
    return finish(
        arguments,
        rows,
        timings,
        {"artifact": artifact.digest},
        {
            "images": len(images),
            "agreement": agreed,
            "torch_threads": torch.get_num_threads(),
            "opencv_threads": cv2.getNumThreads(),
            "suppression": "torchvision's" if suppression is None else "a stand-in in numpy for torchvision's operator",
            "ultralytics": importlib.metadata.version("ultralytics"),
            "their_export": _slimmed(),
        },
        _open_questions(suppression is not None),
    )


def _slimmed() -> str:
    """Their default export simplifies the graph with onnxslim, and only warns where that is missing."""
    try:
        return f"defaults, simplified by onnxslim {importlib.metadata.version('onnxslim')}"
    except importlib.metadata.PackageNotFoundError:
        return "defaults, not simplified, because onnxslim is not installed"


def _open_questions(replaced: bool) -> list[str]:
    said = [
        "reading and decoding of image files, outside on both sides",
        "predictions in batches, from video, or with PyTorch instead of ONNX Runtime on their side",
    ]
    if replaced:
        said.append(
            "torchvision's own suppression, whose operators do not load here: a stand-in takes its place, and one row "
            "leaves its time out altogether"
        )
    return said


if __name__ == "__main__":
    sys.exit(main())
