"""A long series in as many columns as a picture has, without losing a spike: the smallest and the largest of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Envelope:
    """Columns from left to right: where the first value of each stands, and its smallest and largest value.

    ``most`` is how many values share one column; at 1 nothing was thinned, and ``low`` and ``high`` are the values.
    """

    at: Floats
    low: Floats
    high: Floats
    most: int


def envelope(at: Floats, values: Floats, columns: int) -> Envelope:
    """``values`` at ``at`` (ascending) in at most ``columns`` columns of equal width; as they are where they are fewer.

    Columns that have no value are left out.
    """
    if len(values) <= columns:
        return Envelope(at, values, values, 1)
    width = (at[-1] - at[0]) / columns
    column = np.zeros(len(at), int) if width <= 0 else np.minimum(((at - at[0]) / width).astype(int), columns - 1)
    first = np.flatnonzero(np.diff(column, prepend=-1))
    low, high = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    return Envelope(at[first], low, high, int(np.diff(first, append=len(at)).max()))


def running_median(at: Floats, values: Floats, windows: int) -> tuple[Floats, Floats]:
    """The median of each of at most ``windows`` consecutive runs of values, and the middle time of each."""
    parts = np.array_split(np.arange(len(values)), min(windows, max(1, len(values) // 5)))
    middle = np.array([float(np.mean(at[part])) for part in parts])
    return middle, np.array([float(np.median(values[part])) for part in parts])
