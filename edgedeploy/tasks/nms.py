"""Greedy, class-aware non-maximum suppression in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_BLOCK = 256


def suppress(boxes: Floats, classes: Indices, iou: float, limit: int) -> Indices:
    """Which boxes remain: a box goes when one of its own class before it remains and overlaps it by more than ``iou``.

    The result is that of the sequential algorithm. Boxes are taken in blocks: each block is first compared with all
    that remain so far, then with itself, and the work ends as soon as ``limit`` boxes remain.

    Args:
        boxes: (n, 4) x1, y1, x2, y2, best score first.
        classes: (n,).
        iou: intersection over union above which two boxes are the same object.
        limit: how many may remain.

    Returns:
        Indices of the remaining boxes, ascending, at most ``limit``.
    """
    kept = np.empty(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        if len(kept):
            block = block[~_duplicates(boxes, classes, kept, block, iou).any(axis=0)]
        kept = np.concatenate([kept, block[_first_of_each(_duplicates(boxes, classes, block, block, iou))]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4); 0 where both are empty."""
    intersection, union = _areas(first, second)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _first_of_each(duplicate: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of n remain, where ``duplicate[i, j]`` says that i removes j if i comes first and itself remains.

    Repeats "removed by one that remains" until nothing changes. Every pass settles at least one more position from
    the front, so that the fixed point is the sequential result; in practice it is reached in a few passes.
    """
    duplicate = np.triu(duplicate, k=1)
    kept: npt.NDArray[np.bool_] = np.ones(len(duplicate), np.bool_)
    while True:
        remaining = ~np.asarray(duplicate[kept].any(axis=0))
        if np.array_equal(remaining, kept):
            return kept
        kept = remaining


def _duplicates(boxes: Floats, classes: Indices, first: Indices, second: Indices, iou: float) -> npt.NDArray[np.bool_]:
    intersection, union = _areas(boxes[first], boxes[second])
    same: npt.NDArray[np.bool_] = classes[first][:, None] == classes[second]
    return same & (intersection > np.float32(iou) * union)


def _areas(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Intersections and unions (n, m)."""
    size_first, size_second = first[:, 2:] - first[:, :2], second[:, 2:] - second[:, :2]
    width = np.minimum(first[:, None, 2], second[:, 2]) - np.maximum(first[:, None, 0], second[:, 0])
    height = np.minimum(first[:, None, 3], second[:, 3]) - np.maximum(first[:, None, 1], second[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = size_first.prod(axis=1)[:, None] + size_second.prod(axis=1) - intersection
    return intersection, union
