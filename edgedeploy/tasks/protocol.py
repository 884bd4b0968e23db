"""The rules under which detections are counted: how many per image, and what becomes of ignored regions.

The same detections have another average precision under other rules, so a number is worth nothing without their name.
Everything else is the same under all of them: matching and average precision are those of COCO's evaluation (101 levels
of recall, mean over thresholds 0.50 to 0.95 and over the classes of which there are objects).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.samples import DetectionSet, Sample
from edgedeploy.tasks.slices import Slices

#: What lies in ignored regions by at least this share of its own area is not counted.
SHARE = 0.5


@dataclass(frozen=True)
class Protocol:
    """A name and the rules behind it.

    Args:
        name: as it is printed with every number.
        max_detections: the best that are kept per image, over all classes, before anything else is done.
        ignored: whether objects and detections in ignored regions are left out.
        slices: windows in which objects are looked for; in the whole image at once where ``None``.
    """

    name: str
    max_detections: int
    ignored: bool = False
    slices: Slices | None = None

    def __post_init__(self) -> None:
        """Refuse a limit below 1.

        Raises:
            UsageError: with the limit.
        """
        if self.max_detections < 1:
            raise UsageError(f"Protocol: max_detections is {self.max_detections}; it has to be a positive number.")

    def within(self, slices: Slices) -> Protocol:
        """The same, with objects looked for in windows; the windows become part of the name (``visdrone@640:0.2``)."""
        return dataclasses.replace(self, name=f"{self.name}@{slices.name}", slices=slices)

    @property
    def sentence(self) -> str:
        """The rules in words."""
        what = "objects and detections in ignored regions left out" if self.ignored else "ignored regions not honoured"
        how = ""
        if self.slices is not None:
            and_whole = ", and in the whole" if self.slices.whole else ""
            how = f", sought in windows of {self.slices.size} pixels that share {self.slices.overlap:.0%}{and_whole}"
        return f"{self.name}: at most {self.max_detections} detections per image, {what}{how}"


#: 100 detections per image, as in COCO's tables.
COCO = Protocol("coco", 100)

#: 300 detections per image, as Ultralytics' validator keeps, which knows no ignored regions.
ULTRALYTICS = Protocol("ultralytics", 300)

#: 500 detections per image, and what lies in ignored regions by half of its area or more, object or detection, left
#: out. These rules are of the VisDrone-DET toolkit (its function ``dropObjectsInIgr`` and its limit of detections); the
#: implementation is ours. It differs from the toolkit's: the limit is applied first, as to a submission, areas are
#: exact and not rounded to pixels, precision is read at 101 levels of recall and not at every one, and classes without
#: objects do not enter the mean.
VISDRONE = Protocol("visdrone", 500, ignored=True)

PROTOCOLS = {protocol.name: protocol for protocol in (COCO, ULTRALYTICS, VISDRONE)}


def protocol_of(name: str) -> Protocol:
    """The protocol of this name: ``coco``, ``ultralytics`` or ``visdrone``, and after an ``@`` windows if wanted.

    Raises:
        UsageError: there is none, or the windows (see `Slices.parse`) cannot be.
    """
    plain, _, windows = name.partition("@")
    if plain not in PROTOCOLS:
        raise UsageError(f"There is no protocol '{plain}'.{did_you_mean(plain, PROTOCOLS)}")
    protocol = PROTOCOLS[plain]
    return protocol.within(Slices.parse(windows)) if windows else protocol


def limited(max_detections: int) -> Protocol:
    """The known protocol with this limit that knows no ignored regions, else one named ``custom``.

    Raises:
        UsageError: the limit is below 1.
    """
    known = [one for one in PROTOCOLS.values() if one.max_detections == max_detections and not one.ignored]
    return known[0] if known else Protocol("custom", max_detections)


def counted(
    protocol: Protocol, data: DetectionSet, detections: Sequence[Detections]
) -> tuple[DetectionSet, tuple[Detections, ...]]:
    """What a protocol counts: the objects of a data set, and the detections (one per sample, best first) in it."""
    samples, found = list(data.samples), [_best(one, protocol.max_detections) for one in detections]
    if protocol.ignored:
        for index, (sample, one) in enumerate(zip(samples, found, strict=True)):
            if len(sample.ignored):
                samples[index] = _objects(sample, share_ignored(sample.boxes, sample.ignored) < SHARE)
                found[index] = _chosen(one, share_ignored(one.boxes, sample.ignored) < SHARE)
    return dataclasses.replace(data, samples=tuple(samples)), tuple(found)


def share_ignored(boxes: npt.NDArray[np.float32], regions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The share (n,) of each box's area that any of the regions covers; 0 for a box without an area.

    Exact for overlapping regions: their edges cut the plane into cells that are covered or not.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        regions: (k, 4), the same.
    """
    first, areas = boxes.astype(np.float64), regions.astype(np.float64)
    xs, ys = np.unique(areas[:, [0, 2]]), np.unique(areas[:, [1, 3]])
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)))
    columns, rows = np.searchsorted(xs, areas[:, [0, 2]]), np.searchsorted(ys, areas[:, [1, 3]])
    for (left, right), (top, bottom) in zip(columns, rows, strict=True):
        covered[top:bottom, left:right] = 1
    common = ((_lengths(first[:, [1, 3]], ys) @ covered) * _lengths(first[:, [0, 2]], xs)).sum(axis=1)
    own = (first[:, 2:] - first[:, :2]).prod(axis=1)
    share: npt.NDArray[np.float64] = np.divide(common, own, out=np.zeros_like(own), where=own > 0)
    return share


def _lengths(spans: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much of each span (n, 2) lies in each interval between edges: (n, edges - 1)."""
    length: npt.NDArray[np.float64] = np.minimum(spans[:, 1:], edges[1:]) - np.maximum(spans[:, :1], edges[:-1])
    return length.clip(0)


def _best(found: Detections, limit: int) -> Detections:
    return found if len(found) <= limit else _chosen(found, np.arange(len(found)) < limit)


def _chosen(found: Detections, which: npt.NDArray[np.bool_]) -> Detections:
    return Detections(found.boxes[which], found.scores[which], found.classes[which], found.nonfinite)


def _objects(sample: Sample, which: npt.NDArray[np.bool_]) -> Sample:
    return dataclasses.replace(
        sample,
        boxes=sample.boxes[which],
        classes=sample.classes[which],
        area=sample.area[which],
        crowd=sample.crowd[which],
    )
