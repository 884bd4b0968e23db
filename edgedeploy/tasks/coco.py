"""COCO's detection metrics, computed by faster-coco-eval or, where only that is installed, by pycocotools."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.matches import IOUS, Matches, check, match_table
from edgedeploy.tasks.samples import DetectionSet

__all__ = ["ClassAccuracy", "DetectionAccuracy", "Matches", "evaluate", "match_table"]


@dataclass(frozen=True)
class ClassAccuracy:
    """Average precision of one class; ``None`` where the data set has no object of it."""

    label: str
    ap50_95: float | None
    ap50: float | None
    instances: int


@dataclass(frozen=True)
class DetectionAccuracy:
    """What COCO's evaluation says about one set of results. All values are shares in 0..1.

    ``small``, ``medium`` and ``large`` are AP50-95 of objects below 32x32, up to 96x96, and above; ``recall`` is the
    average recall with ``max_detections`` per image and class. ``None`` where there is no such object. ``small50``,
    ``medium50`` and ``large50`` are AP50 of the same objects; ``None`` in records from before they were kept, too.
    ``protocol`` names the rules (`edgedeploy.tasks.protocol`; empty where it was not recorded), and ``ignored`` says
    whether ignored regions were honoured.
    """

    ap50_95: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    recall: float | None
    classes: tuple[ClassAccuracy, ...]
    images: int
    instances: int
    max_detections: int
    ious: tuple[float, ...]
    evaluator: str
    schema: int = 1
    protocol: str = ""
    ignored: bool = False
    small50: float | None = None
    medium50: float | None = None
    large50: float | None = None


def evaluate(data: DetectionSet, detections: Sequence[Detections], max_detections: int = 300) -> DetectionAccuracy:
    """Average precision of results, one per sample and with classes as in ``data.labels``.

    COCO's own tables use ``max_detections=100``, Ultralytics' validator keeps 300 per image.

    Raises:
        UsageError: the results do not fit the data set.
        Unavailable: neither evaluator is installed.
    """
    check(data, detections)
    make, evaluation, name = _library()
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = make(), make()
        truth.dataset, found.dataset = _truth(data), _found(data, detections)
        truth.createIndex()
        found.createIndex()
        run = evaluation(truth, found, "bbox")
        run.params.maxDets = [max_detections]
        run.evaluate()
        run.accumulate()
    # Axes: threshold, recall level, class, area (all, small, medium, large), detections. The library's own summary
    # reads the entry for 100 detections, which need not be there.
    precision, recall = np.asarray(run.eval["precision"])[..., 0], np.asarray(run.eval["recall"])[..., 0]
    return DetectionAccuracy(
        ap50_95=_mean(precision[..., 0]),
        ap50=_mean(precision[0, ..., 0]),
        ap75=_mean(precision[5, ..., 0]),
        small=_mean(precision[..., 1]),
        medium=_mean(precision[..., 2]),
        large=_mean(precision[..., 3]),
        recall=_mean(recall[..., 0]),
        classes=_classes(data, precision[..., 0]),
        images=len(data),
        instances=data.instances,
        max_detections=max_detections,
        ious=IOUS,
        evaluator=name,
        small50=_mean(precision[0, ..., 1]),
        medium50=_mean(precision[0, ..., 2]),
        large50=_mean(precision[0, ..., 3]),
    )


def _classes(data: DetectionSet, precision: npt.NDArray[np.float64]) -> tuple[ClassAccuracy, ...]:
    counts = np.zeros(len(data.labels), np.int64)
    for sample in data.samples:
        np.add.at(counts, sample.classes[~sample.crowd], 1)
    return tuple(
        ClassAccuracy(label, _mean(precision[:, :, i]), _mean(precision[0, :, i]), int(counts[i]))
        for i, label in enumerate(data.labels)
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """The mean of what there is; the evaluators write -1 where there is no object."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _library() -> tuple[Any, Any, str]:
    """The data set class, the evaluation class, and name with version of what is installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        pass
    else:
        return COCO, COCOeval_faster, f"faster-coco-eval {importlib.metadata.version('faster-coco-eval')}"
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        raise Unavailable.extra("An evaluator of average precision (faster-coco-eval)", "accuracy") from None
    return coco.COCO, cocoeval.COCOeval, f"pycocotools {importlib.metadata.version('pycocotools')}"


def _frame(data: DetectionSet) -> dict[str, Any]:
    return {
        "info": {},
        "images": [
            {"id": i, "height": sample.size[0], "width": sample.size[1]} for i, sample in enumerate(data.samples, 1)
        ],
        "categories": [{"id": i, "name": label} for i, label in enumerate(data.labels, 1)],
    }


def _truth(data: DetectionSet) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(data.samples, 1):
        for box, kind, area, crowd in zip(_sides(sample.boxes), sample.classes, sample.area, sample.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean "not matched" to the evaluators
                    "image_id": image,
                    "category_id": int(kind) + 1,
                    "bbox": box,
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return _frame(data) | {"annotations": annotations}


def _found(data: DetectionSet, detections: Sequence[Detections]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, found in enumerate(detections, 1):
        for box, score, kind in zip(_sides(found.boxes), found.scores, found.classes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(kind) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    return _frame(data) | {"annotations": annotations}


def _sides(boxes: npt.NDArray[np.float32]) -> list[list[float]]:
    """x1, y1, x2, y2 to x, y, w, h."""
    wide = boxes.astype(np.float64)
    wide[:, 2:] -= wide[:, :2]
    sides: list[list[float]] = wide.tolist()
    return sides
