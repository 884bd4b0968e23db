"""Large images in windows: small objects are found at their own size, and not at that of an image made to fit.

A detector sees every window as an image of its own; what it found is moved to where the window is, and what several
windows found of one object becomes one detection again. The same windows cut training images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.nms import Floats, Indices, overlaps
from edgedeploy.tasks.samples import Sample
from edgedeploy.tensors import Array

#: left, top, right, bottom in whole pixels
Window = tuple[int, int, int, int]
Predict = Callable[[Array], Detections]
Flags = npt.NDArray[np.bool_]

#: Of two detections of one class from different windows that overlap by more than this, the better one stays.
SAME = 0.5

#: A detection at the border of its window is a part of an object, and dropped, where another window has found one of
#: the same class that is not at its border, has at least half the score, and covers this share of the part's area.
COVERED = 0.6

_EDGE = 2.0  # pixels from the border of a window at which an object counts as cut
_BLOCK = 256


@dataclass(frozen=True)
class Slices:
    """How an image is cut into windows.

    Args:
        size: side of the windows in pixels; smaller only where the image is.
        overlap: share of the side by which neighbours overlap at least; an object smaller than that is whole in one.
        whole: whether the whole image is a window, too, for objects larger than the others.
    """

    size: int
    overlap: float = 0.2
    whole: bool = True

    def __post_init__(self) -> None:
        """Refuse windows that cannot be.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        rules = {
            "size": (self.size >= 32, "at least 32 pixels"),
            "overlap": (0 <= self.overlap <= 0.9, "between 0 and 0.9"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise UsageError(f"Slices: {name} is {getattr(self, name)}; it has to be {expected}.")

    @property
    def name(self) -> str:
        """Size and overlap as `parse` takes them: ``640:0.2``; without the whole image ``640:0.2:only``."""
        return f"{self.size}:{self.overlap:g}{'' if self.whole else ':only'}"

    @classmethod
    def parse(cls, text: str) -> Slices:
        """The windows of a text like ``640``, ``640:0.3`` or ``640:0.3:only``.

        Raises:
            UsageError: another text, or windows that cannot be.
        """
        size, *more = text.split(":")
        only = more[-1:] == ["only"]
        rest = more[:-1] if only else more
        try:
            if len(rest) > 1:
                raise ValueError
            return cls(int(size), float(rest[0]) if rest else 0.2, whole=not only)
        except ValueError:
            raise UsageError(f"Windows are written SIZE or SIZE:OVERLAP, such as 640:0.2, and not {text!r}.") from None

    def windows(self, image: tuple[int, int]) -> tuple[Window, ...]:
        """The windows over an image of (height, width), row by row; every pixel is in one, none reaches out."""
        rows, columns = (self._starts(side) for side in image)
        return tuple(
            (left, top, min(left + self.size, image[1]), min(top + self.size, image[0]))
            for top in rows
            for left in columns
        )

    def _starts(self, length: int) -> list[int]:
        step = max(1, int(self.size * (1 - self.overlap)))
        last = max(length - self.size, 0)
        return [*range(0, last, step), last]


def sliced(predict: Predict, slices: Slices, max_detections: int) -> Predict:
    """``predict`` over windows: an image (uint8 RGB) to at most ``max_detections``, in pixels of the whole image."""

    def detect(image: Array) -> Detections:
        size = (image.shape[0], image.shape[1])
        windows = list(slices.windows(size))
        if slices.whole and len(windows) > 1:
            windows.append((0, 0, size[1], size[0]))
        parts = [predict(np.ascontiguousarray(image[top:bottom, left:right])) for left, top, right, bottom in windows]
        return merged(parts, windows, max_detections)

    return detect


def moved(boxes: Floats, window: Window) -> Floats:
    """Boxes (n, 4) from pixels of a window to pixels of the image."""
    corner: Floats = np.array(window[:2] * 2, np.float32)
    return boxes + corner


def merged(parts: list[Detections], windows: list[Window], max_detections: int) -> Detections:
    """One result of those of several windows, best score first.

    Detections of one window never remove each other: that has been done.

    Args:
        parts: per window, in its own pixels.
        windows: where they are; together they span the image.
        max_detections: how many are kept.
    """
    limits = np.array(windows, np.float32)
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    boxes = np.concatenate([moved(part.boxes, window) for part, window in zip(parts, windows, strict=True)])
    scores = np.concatenate([part.scores for part in parts])
    classes = np.concatenate([part.classes for part in parts])
    outer = np.concatenate([limits[:, :2].min(axis=0), limits[:, 2:].max(axis=0)])
    at_edge = ((np.abs(boxes - limits[source]) < _EDGE) & (limits[source] != outer)).any(axis=1)
    order = np.argsort(-scores, kind="stable")
    order = order[~_parts(boxes, scores, classes, source, at_edge)[order]]
    kept = order[_first(boxes[order], classes[order], source[order], max_detections)]
    return Detections(boxes[kept], scores[kept], classes[kept], sum(part.nonfinite for part in parts))


def _parts(boxes: Floats, scores: Floats, classes: Indices, source: Indices, at_edge: Flags) -> Flags:
    """Which detections (n,) are a part of an object that another window has found whole."""
    part, whole = np.zeros(len(boxes), np.bool_), np.flatnonzero(~at_edge)
    candidates = np.flatnonzero(at_edge)
    for start in range(0, len(candidates), _BLOCK):
        mine = candidates[start : start + _BLOCK]
        partner = (classes[mine, None] == classes[whole]) & (source[mine, None] != source[whole])
        partner &= scores[whole] >= scores[mine, None] / 2
        part[mine] = (partner & (_shares(boxes[mine], boxes[whole]) >= COVERED)).any(axis=1)
    return part


def _shares(first: Floats, second: Floats) -> Floats:
    """Which share of each of ``first`` (n, 4) each of ``second`` (m, 4) covers: (n, m)."""
    sides = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2])
    common = sides.clip(0).prod(axis=2)
    own = (first[:, 2:] - first[:, :2]).prod(axis=1)[:, None]
    share: Floats = np.divide(common, own, out=np.zeros_like(common), where=own > 0)
    return share


def _first(boxes: Floats, classes: Indices, source: Indices, limit: int) -> Indices:
    """Indices that remain when each removes what comes after it and is of its class, from elsewhere, and too close."""
    kept: list[int] = []
    alive = np.ones(len(boxes), np.bool_)
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == limit:
            break
        rest = (
            index
            + 1
            + np.flatnonzero(
                alive[index + 1 :] & (classes[index + 1 :] == classes[index]) & (source[index + 1 :] != source[index])
            )
        )
        alive[rest[overlaps(boxes[index : index + 1], boxes[rest])[0] > SAME]] = False
    return np.array(kept, np.int64)


def cut(sample: Sample, window: Window, image: Path, least: float = 0.4) -> Sample:
    """What of a sample is in a window; ``image`` is the file that the window is, or will be, written to.

    Boxes are clipped. Of an object at least the share ``least`` of its box has to be inside; what is seen of the others
    is neither an object nor background, and becomes an ignored region.
    """
    left, top, right, bottom = window
    inside, share = _clipped(sample.boxes, window)
    ignored, region = _clipped(sample.ignored, window)
    kept, seen = share >= least, share > 0
    kept |= sample.crowd & seen
    return dataclasses.replace(
        sample,
        image=image,
        size=(bottom - top, right - left),
        boxes=inside[kept],
        classes=sample.classes[kept],
        area=sample.area[kept] * share[kept],
        crowd=sample.crowd[kept],
        ignored=np.concatenate([ignored[region > 0], inside[seen & ~kept]]),
    )


def _clipped(boxes: Floats, window: Window) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Boxes (n, 4) clipped to a window, in its pixels, and which share (n,) of each is inside."""
    corner = np.array(window[:2] * 2, np.float64)
    limits = np.array([window[2] - window[0], window[3] - window[1]] * 2, np.float64)
    wide = boxes.astype(np.float64)
    inside = (wide - corner).clip(0, limits)
    own, seen = ((part[:, 2:] - part[:, :2]).prod(axis=1) for part in (wide, inside))
    share: npt.NDArray[np.float64] = np.divide(seen, own, out=np.zeros_like(own), where=own > 0)
    return inside.astype(np.float32), share
