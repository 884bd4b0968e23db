"""Object detection: an image in, boxes with scores and classes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.image import Floats, Geometry, fill, place
from edgedeploy.tasks.nms import Indices, overlaps, suppress
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array

#: Detections with a lower score are of no interest to `Detect.distance`.
VISIBLE = 0.25

#: Candidates that enter suppression, best first: a broken graph may find something everywhere.
_CANDIDATES = 30_000


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best score first.

    ``boxes`` float32 (n, 4) x1, y1, x2, y2 in pixels of the original image, ``scores`` float32 (n,) in 0..1,
    ``classes`` int64 (n,). ``nonfinite`` counts candidates that were dropped because a score or coordinate was NaN
    or infinite: more than 0 is a reason to doubt the graph.
    """

    boxes: Floats
    scores: Floats
    classes: Indices
    nonfinite: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def relabel(self, mapping: Sequence[int]) -> Detections:
        """The same with class ``mapping[c]`` for ``c``; those that map to -1 are left out."""
        classes = np.asarray(mapping, np.int64)[self.classes]
        known = classes >= 0
        return Detections(self.boxes[known], self.scores[known], classes[known], self.nonfinite)


@dataclass(frozen=True)
class Detect(Task[Detections]):
    """The contract of a detector with one float32 image input (1, 3, H, W).

    ``size`` is (height, width). A pixel x in 0..255 enters the tensor's channel c as ``(x - mean[c]) / std[c]``.
    ``head`` says how the output is laid out:

    - ``yolov8``: (1, 4 + classes, anchors): centre x and y, width and height in input pixels, then a probability per
      class;
    - ``yolox``: (1, anchors, 5 + classes) not yet decoded: centre ``(xy + grid) * stride``, size ``exp(wh) * stride``,
      objectness, a probability per class; a score is the product of both;
    - ``end2end``: (1, n, 6): x1, y1, x2, y2 in input pixels, score, class, without duplicates.

    With ``nms="graph"`` the graph removes duplicates itself and its output is that of ``end2end``. With
    ``multi_label`` every class of an anchor above ``confidence`` is a candidate, else only its best one.
    """

    kind: ClassVar[str] = "detect"

    labels: tuple[str, ...]
    size: tuple[int, int]
    resize: Literal["letterbox", "stretch"] = "letterbox"
    align: Literal["center", "topleft"] = "center"
    pad: int = 114
    color: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    head: Literal["yolov8", "yolox", "end2end"] = "yolov8"
    strides: tuple[int, ...] = (8, 16, 32)
    nms: Literal["host", "graph"] = "host"
    confidence: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    multi_label: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no detector can have.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        rules = {
            "labels": (len(self.labels) > 0, "at least one name"),
            "size": (min(self.size) > 0, "two positive numbers, height and width"),
            "pad": (0 <= self.pad <= 255, "a grey level from 0 to 255"),
            "std": (min(self.std) > 0, "three positive numbers"),
            "strides": (len(self.strides) > 0 and min(self.strides) > 0, "positive numbers"),
            "confidence": (0 <= self.confidence < 1, "at least 0 and less than 1"),
            "iou": (0 < self.iou <= 1, "more than 0 and at most 1"),
            "max_detections": (self.max_detections > 0, "a positive number"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise UsageError(f"Task 'detect': {name} is {getattr(self, name)!r}; it has to be {expected}.")

    @classmethod
    def yolov8(cls, labels: Sequence[str], size: tuple[int, int] = (640, 640)) -> Detect:
        """YOLOv8 as Ultralytics trains it: letterbox in the middle, RGB in 0..1."""
        return cls(tuple(labels), size)

    @classmethod
    def yolox(cls, labels: Sequence[str], size: tuple[int, int] = (640, 640)) -> Detect:
        """YOLOX as Megvii trains it: letterbox at the top left, BGR in 0..255."""
        zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return cls(tuple(labels), size, align="topleft", color="BGR", mean=zero, std=one, head="yolox")

    def with_size(self, height: int, width: int) -> Detect:
        """The same contract for another input size of a graph whose size is dynamic."""
        return dataclasses.replace(self, size=(height, width))

    def for_evaluation(self, max_detections: int = 300) -> Detect:
        """The same contract with the thresholds under which average precision is measured.

        AP integrates over all scores, so nearly every candidate is kept: confidence 0.001 and each pair of anchor
        and class, with suppression at 0.7. These are the settings of Ultralytics' validator.
        """
        return dataclasses.replace(self, confidence=0.001, iou=0.7, multi_label=True, max_detections=max_detections)

    def prepare(self, sample: Array) -> Prepared:
        """The input tensor for one image: float32 (1, 3, H, W), C-contiguous.

        Args:
            sample: uint8 RGB (height, width, 3), as `edgedeploy.tasks.image.read_image` gives it.

        Raises:
            UsageError: another dtype or shape.
        """
        if sample.dtype != np.uint8 or sample.ndim != 3 or sample.shape[2] != 3 or sample.size == 0:
            raise UsageError(
                f"A detector takes an RGB image, uint8 (height, width, 3), but was given {sample.dtype} {sample.shape}."
            )
        geometry = place((sample.shape[0], sample.shape[1]), self.size, self.resize, self.align)
        tensor = np.empty((1, 3, *self.size), np.float32)
        order = slice(None) if self.color == "RGB" else slice(None, None, -1)
        gain = [1 / s for s in self.std]
        bias = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        fill(tensor[0][order], sample.astype(np.uint8, copy=False), geometry, gain[order], bias[order], self.pad)
        return Prepared((tensor,), geometry)

    def finish(self, outputs: Sequence[Array], context: Any) -> Detections:
        """The detections of one image from the graph's first output.

        Args:
            outputs: the tensors of the graph, laid out as ``head`` says.
            context: the `Geometry` of `prepare`.

        Raises:
            UsageError: the output's shape does not fit head, labels, size and strides.
        """
        output = np.asarray(outputs[0], np.float32)
        # A broken graph's numbers may overflow; they are counted, and need no warnings besides.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._found(output, context)

    def comparable(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Task.comparable`: of a graph that gives finished detections, only their scores.

        Its rows are sorted by score, and change places over a rounding error; boxes are compared as results.
        """
        if self.head != "end2end" and self.nms != "graph":
            return dict(outputs)
        return {name: v[..., 4] if v.ndim == 3 and v.shape[-1] == 6 else v for name, v in outputs.items()}

    def distance(self, reference: Detections, result: Detections) -> float:
        """How far two results for the same image are apart: 0 for the same, 1 for nothing in common.

        Detections of one class that overlap by at least 0.5 are paired one to one, closest first. A pair costs
        ``1 - IoU`` plus the difference of its scores (at most 1); a detection without a partner costs 1. Pairs and
        single detections count as much as their (higher) score; those that score less than `VISIBLE` on both sides do
        not count.
        """
        ious = overlaps(reference.boxes, result.boxes)
        costs = np.minimum(1 - ious + np.abs(reference.scores[:, None] - result.scores), 1)
        pairs = np.argwhere((ious >= 0.5) & (reference.classes[:, None] == result.classes))
        pairs = pairs[np.argsort(costs[pairs[:, 0], pairs[:, 1]], kind="stable")]
        alone = [np.ones(len(reference), np.bool_), np.ones(len(result), np.bool_)]
        total = weights = 0.0
        for i, j in pairs:
            if alone[0][i] and alone[1][j]:
                alone[0][i] = alone[1][j] = False
                weight = float(max(reference.scores[i], result.scores[j]))
                if weight >= VISIBLE:
                    total, weights = total + weight * float(costs[i, j]), weights + weight
        for one, single in zip((reference, result), alone, strict=True):
            missed = float(one.scores[single & (one.scores >= VISIBLE)].sum())
            total, weights = total + missed, weights + missed
        return min(max(total / weights, 0.0), 1.0) if weights else 0.0

    def _found(self, output: Floats, geometry: Geometry) -> Detections:
        suppressed = self.head == "end2end" or self.nms == "graph"
        boxes, scores, classes, nonfinite = self._rows(output) if suppressed else self._candidates(output)
        order = np.argsort(-scores, kind="stable")[:_CANDIDATES]
        boxes, scores, classes = boxes[order], scores[order], classes[order]
        if suppressed:
            kept = np.arange(min(len(scores), self.max_detections))
        else:
            kept = suppress(boxes, classes, self.iou, self.max_detections)
        return Detections(geometry.to_image(boxes[kept]), scores[kept], classes[kept], nonfinite)

    def _candidates(self, output: Floats) -> tuple[Floats, Floats, Indices, int]:
        """Boxes (input pixels), scores and classes above the confidence; how many anchors were not finite."""
        if self.head == "yolov8":
            self._expect(output, (1, 4 + len(self.labels), None))
            # Classes come first in memory: the best score per anchor is a plain reduction over rows, and everything
            # after it touches only the few anchors that pass.
            best = output[0, 4:].max(axis=0)
            anchors, broken = _above(best, self.confidence)
            best, probabilities = best[anchors], output[0, 4:][:, anchors]
            boxes = _corners(output[0, :4][:, anchors])
        else:
            grid = _grid(self.size, self.strides)
            self._expect(output, (1, len(grid), 5 + len(self.labels)))
            # No probability exceeds 1, so that an anchor whose objectness is too low has no candidate.
            anchors, broken = _above(output[0, :, 4], self.confidence)
            rows = output[0, anchors].T
            probabilities = rows[5:] * rows[4]
            best = probabilities.max(axis=0)
            broken += len(best) - int(np.isfinite(best).sum())
            boxes = _corners(_decoded(rows[:4], grid[anchors].T))
        if self.multi_label:
            each = probabilities.T
            which, classes = np.nonzero(each > self.confidence)
        else:
            which = np.flatnonzero(best > self.confidence)
            classes = probabilities[:, which].argmax(axis=0)
        scores, boxes = probabilities[classes, which], boxes[which]
        sound = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        broken += int(np.isfinite(scores).sum() - sound.sum())
        return boxes[sound], scores[sound], classes[sound].astype(np.int64, copy=False), broken

    def _rows(self, output: Floats) -> tuple[Floats, Floats, Indices, int]:
        """The same for an output whose rows are already detections."""
        self._expect(output, (1, None, 6))
        rows = output[0]
        sound = np.isfinite(rows).all(axis=1)
        chosen = rows[sound & (rows[:, 4] > self.confidence)]
        classes = chosen[:, 5].astype(np.int64)
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.labels):
            raise UsageError(
                f"The graph found class {classes.max()}, but the task has {len(self.labels)} labels. Give the labels "
                "that the model was trained with."
            )
        return chosen[:, :4], chosen[:, 4], classes, len(rows) - int(sound.sum())

    def _expect(self, output: Floats, shape: tuple[int | None, ...]) -> None:
        if output.ndim == 3 and all(want in (None, got) for want, got in zip(shape, output.shape, strict=True)):
            return
        wanted = ", ".join("n" if want is None else str(want) for want in shape)
        raise UsageError(
            f"The graph's output has shape {output.shape}, but head '{self.head}' with nms in the {self.nms}, "
            f"{len(self.labels)} labels and input {self.size[0]}x{self.size[1]} gives ({wanted}). Is it another head, "
            "another number of classes, or another input size?"
        )


def _above(scores: Floats, confidence: float) -> tuple[npt.NDArray[np.intp], int]:
    """Where scores exceed the confidence, and how many are not finite (NaN passes through a maximum)."""
    broken = len(scores) - int(np.isfinite(scores).sum())
    return np.flatnonzero((scores > confidence) & (scores < np.inf)), broken


def _corners(boxes: Floats) -> Floats:
    """(4, n) centre x, centre y, width, height to (n, 4) x1, y1, x2, y2."""
    half = np.maximum(boxes[2:], 0) / 2
    return np.concatenate([boxes[:2] - half, boxes[:2] + half]).T


def _decoded(raw: Floats, grid: Floats) -> Floats:
    """YOLOX boxes (4, n) in pixels from the graph's numbers and grid (3, n) of column, row and stride."""
    return np.concatenate([(raw[:2] + grid[:2]) * grid[2], np.exp(raw[2:]) * grid[2]])


@lru_cache(maxsize=8)
def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> Floats:
    """(anchors, 3): column, row and stride of every cell, level after level, row after row."""
    levels = []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        levels.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(levels).astype(np.float32)
