"""Which detections are right: the tables from which average precision, and its bootstrap, are computed.

The definitions are those of the COCO evaluation: a detection is right at a threshold when it takes the free object of
its class that it overlaps most, and by at least the threshold, best scores choosing first; one that only meets a
crowd region does not count at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.samples import DetectionSet, Sample

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Overlap thresholds over which COCO averages: 0.50, 0.55 ... 0.95.
IOUS: tuple[float, ...] = tuple(float(x) for x in np.linspace(0.5, 0.95, 10))

#: Recall levels at which COCO reads the precision: 0, 0.01 ... 1.
_LEVELS = np.linspace(0.0, 1.0, 101)

_BLOCK = 1 << 22  # numbers in one work array


@dataclass(frozen=True, eq=False)
class Matches:
    """Every detection of a data set with what became of it.

    Detections are sorted by class, then best score first (equal scores in image order). ``classes``, ``scores`` and
    ``image`` are (d,); ``right`` and ``ignored`` are (thresholds, d); ``truths`` (classes, images) counts objects,
    crowd regions left out.
    """

    labels: tuple[str, ...]
    classes: npt.NDArray[np.int64]
    scores: Doubles
    image: npt.NDArray[np.int64]
    right: Flags
    ignored: Flags
    truths: npt.NDArray[np.int64]

    @property
    def images(self) -> int:
        """Images in the data set."""
        return len(self.truths.T)

    def of_class(self, index: int) -> slice:
        """Where the detections of one class are."""
        return slice(*np.searchsorted(self.classes, [index, index + 1]).tolist())


def match_table(data: DetectionSet, detections: Sequence[Detections], max_detections: int = 300) -> Matches:
    """The match of every detection, with classes as in ``data.labels``.

    Args:
        data: the truth.
        detections: one per sample, in the same order.
        max_detections: of one class in one image, best first; the rest is left out.

    Raises:
        UsageError: another number of detections than samples, or a class that the data set does not have.
    """
    check(data, detections)
    parts = [_match_image(*pair, max_detections) for pair in zip(data.samples, detections, strict=True)]
    scores, classes, right, ignored = (np.concatenate([part[i] for part in parts], axis=-1) for i in range(4))
    image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    order = np.lexsort((-scores, classes))
    truths = np.zeros((len(data.labels), len(data)), np.int64)
    for index, sample in enumerate(data.samples):
        np.add.at(truths[:, index], sample.classes[~sample.crowd], 1)
    return Matches(data.labels, classes[order], scores[order], image[order], right[:, order], ignored[:, order], truths)


def check(data: DetectionSet, detections: Sequence[Detections]) -> None:
    """Refuse results that cannot belong to the data set.

    Raises:
        UsageError: no samples, another number of results than samples, or a class outside the labels.
    """
    if len(data) == 0:
        raise UsageError(f"{data.name} has no images.")
    if len(detections) != len(data):
        raise UsageError(f"There are results for {len(detections)} images, but {data.name} has {len(data)}.")
    for sample, found in zip(data.samples, detections, strict=True):
        if len(found) and not 0 <= found.classes.min() <= found.classes.max() < len(data.labels):
            raise UsageError(
                f"{sample.image.name}: class {found.classes.max()} was found, but {data.name} has "
                f"{len(data.labels)} classes. Map the model's classes with match_labels first."
            )


def average_precision(matches: Matches, weights: npt.NDArray[np.integer]) -> Doubles:
    """AP per class and threshold when image i is in the data set ``weights[i, r]`` times: (classes, thresholds, r).

    Precision is read at 101 levels of recall, each the best at that recall or a higher one (COCO). The result is that
    of the data set with its images repeated, because precision is only ever read where recall rises; only different
    detections of one image with equal scores, whose order is arbitrary, may make a difference. Classes without objects
    are NaN.

    Args:
        matches: from `match_table`.
        weights: whole numbers (images, r).
    """
    truths = (matches.truths @ weights).astype(np.float64)
    out = np.full((len(matches.labels), len(matches.right), weights.shape[1]), np.nan)
    for index in range(len(matches.labels)):
        own = matches.of_class(index)
        step = max(1, _BLOCK // max(1, own.stop - own.start))
        for start in range(0, weights.shape[1], step):
            block = slice(start, start + step)
            if truths[index, block].any():
                out[index, :, block] = _class_precision(
                    weights[:, block][matches.image[own]],
                    matches.right[:, own],
                    matches.ignored[:, own],
                    truths[index, block],
                )
    return out


def _class_precision(weights: npt.NDArray[np.integer], right: Flags, ignored: Flags, truths: Doubles) -> Doubles:
    """(thresholds, r) from weights (d, r) of the detections of one class, best first, and objects (r,)."""
    out = np.zeros((len(right), weights.shape[1]))
    everything = None if ignored.any() else weights.cumsum(axis=0, dtype=np.int64)
    for threshold in range(len(right)):
        hits = np.flatnonzero(right[threshold])
        if not len(hits):
            continue
        counted = everything
        if counted is None:
            counted = (weights * ~ignored[threshold][:, None]).cumsum(axis=0, dtype=np.int64)
        found, shown = weights[hits].cumsum(axis=0, dtype=np.float64), counted[hits].astype(np.float64)
        precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = np.divide(found, truths, out=np.zeros_like(found), where=truths > 0)
        reached = np.searchsorted(_LEVELS, recall, side="right")
        levels = np.diff(reached, axis=0, prepend=0)
        out[threshold] = (best * levels).sum(axis=0) / len(_LEVELS)
    out[:, truths == 0] = np.nan
    return out


def _match_image(sample: Sample, found: Detections, limit: int) -> tuple[Doubles, npt.NDArray[np.int64], Flags, Flags]:
    """Scores, classes, right (t, d) and ignored (t, d) of one image's detections, grouped by class, best first."""
    order = np.lexsort((-found.scores.astype(np.float64), found.classes))
    classes = found.classes[order]
    starts = np.searchsorted(classes, classes)
    order = order[np.arange(len(order)) - starts < limit]
    classes, boxes = found.classes[order], found.boxes[order].astype(np.float64)
    right = np.zeros((len(IOUS), len(order)), np.bool_)
    ignored = np.zeros_like(right)
    for kind in np.intersect1d(classes, sample.classes):
        mine, theirs = np.flatnonzero(classes == kind), np.flatnonzero(sample.classes == kind)
        crowd = sample.crowd[theirs]
        overlap = _overlap(boxes[mine], sample.boxes[theirs].astype(np.float64), crowd)
        right[:, mine], ignored[:, mine] = _assign(overlap, crowd)
    return found.scores[order].astype(np.float64), classes, right, ignored


def _overlap(boxes: Doubles, truths: Doubles, crowd: Flags) -> Doubles:
    """Intersection over union (d, g); for crowd regions over the detection's own area."""
    # Sides first, as COCO stores boxes: so that an overlap exactly at a threshold falls on the same side.
    first, second = boxes.copy(), truths.copy()
    first[:, 2:] -= first[:, :2]
    second[:, 2:] -= second[:, :2]
    near = np.maximum(first[:, None, :2], second[:, :2])
    far = np.minimum((first[:, :2] + first[:, 2:])[:, None], second[:, :2] + second[:, 2:])
    common = np.maximum(far - near, 0).prod(axis=2)
    own = first[:, 2:].prod(axis=1)[:, None]
    whole = np.where(crowd, own, own + second[:, 2:].prod(axis=1) - common)
    ratio: Doubles = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return ratio


def _assign(overlap: Doubles, crowd: Flags) -> tuple[Flags, Flags]:
    """Which detections (rows, best first) are right and which are ignored, (thresholds, d) each."""
    thresholds = np.minimum(np.array(IOUS), 1 - 1e-10)[:, None]
    right = np.zeros((len(thresholds), len(overlap)), np.bool_)
    ignored = np.zeros_like(right)
    free = np.repeat(~crowd[None], len(thresholds), axis=0)
    for index in np.flatnonzero(overlap.max(axis=1) >= thresholds[0]):
        enough = overlap[index] >= thresholds
        value = np.where(enough & free, overlap[index], -1.0)
        chosen = value.shape[1] - 1 - value[:, ::-1].argmax(axis=1)  # of equal ones the last, as COCO does
        hit = np.flatnonzero(value.max(axis=1) >= 0)
        right[hit, index] = True
        free[hit, chosen[hit]] = False
        ignored[:, index] = ~right[:, index] & (enough & crowd).any(axis=1)
    return right, ignored
