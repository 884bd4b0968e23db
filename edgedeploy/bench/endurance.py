"""Speed over a long run: its levels, and when the device first became slower."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.measurement import Measurement

Times = npt.NDArray[np.float64]

#: Windows of the curve of a sustained run, at most; passes of one, and windows between two changes, at least.
WINDOWS, WINDOW_PASSES, LEVEL = 60, 5, 3
#: A change of speed is one where medians differ by more than this share, and by so many standard errors.
CHANGE, ERRORS = 0.05, 5.0


@dataclass(frozen=True)
class Endurance:
    """The speed over a sustained run; times in seconds, pauses between processes not counted.

    Args:
        times: begin of each window.
        medians: end-to-end median of each window.
        peak: the fastest level that lasted for `LEVEL` windows.
        sustained: the level at the end, and the fastest and slowest window of it.
        ratio: speed at the end over peak speed: 1 where nothing was lost.
        throttled: seconds until it first became slower, by more than `CHANGE`; ``None`` where it never did.
    """

    times: tuple[float, ...]
    medians: tuple[float, ...]
    peak: float
    sustained: float
    sustained_range: tuple[float, float]
    ratio: float
    throttled: float | None


def endurance(measurement: Measurement) -> Endurance:
    """How the speed of ``measurement`` went, its processes one after the other."""
    times, medians = _curve(measurement)
    changes = change_points(medians)
    levels = _levels(medians, changes)
    last = medians[changes[-1] if changes else 0 :]
    fastest, throttled = levels[0], None
    for at, level in zip(changes, levels[1:], strict=True):
        if throttled is None and level > fastest * (1 + CHANGE):
            throttled = float(times[at])
        fastest = min(fastest, level)
    return Endurance(
        times=tuple(map(float, times)),
        medians=tuple(map(float, medians)),
        peak=fastest,
        sustained=levels[-1],
        sustained_range=(float(last.min()), float(last.max())),
        ratio=fastest / levels[-1],
        throttled=throttled,
    )


def _curve(measurement: Measurement) -> tuple[Times, Times]:
    """Begin and median of each window, as many passes in each."""
    walls = [process.telemetry.wall for process in measurement.processes]
    offsets = np.concatenate([[0.0], np.cumsum(walls)[:-1]])
    parts = zip(measurement.processes, offsets, strict=True)
    began = np.concatenate([process.samples.times() + offset for process, offset in parts])
    seconds = measurement.seconds()
    blocks = np.array_split(np.arange(len(seconds)), min(WINDOWS, max(1, len(seconds) // WINDOW_PASSES)))
    return began[[block[0] for block in blocks]], np.array([np.median(seconds[block]) for block in blocks])


def change_points(values: Times) -> tuple[int, ...]:
    """Where a series changes its level by more than `CHANGE`: the first index of each new level.

    Binary segmentation: the split with the least squared error is taken where the means of its sides are `ERRORS`
    standard errors apart, and each side is split again; no level is shorter than `LEVEL`. The noise is that of
    neighbours' differences, which a change of level leaves alone. Then neighbouring levels that are nearly the same
    become one, the nearest first.
    """
    if len(values) < 2 * LEVEL:
        return ()
    noise = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
    found = list(_splits(values, noise))
    while found:
        levels = _levels(values, found)
        apart = [max(pair) / min(pair) - 1 for pair in itertools.pairwise(levels)]
        if min(apart) > CHANGE:
            break
        del found[int(np.argmin(apart))]
    return tuple(found)


def _splits(values: Times, noise: float) -> tuple[int, ...]:
    n = len(values)
    if n < 2 * LEVEL:
        return ()
    counts, before = np.arange(1, n), np.cumsum(values)[:-1]
    # The squared error of a split is least where this is largest: the sum of count * mean^2 of its sides.
    gain = before**2 / counts + (values.sum() - before) ** 2 / (n - counts)
    at = LEVEL + int(np.argmax(gain[LEVEL - 1 : n - LEVEL]))
    left, right = values[:at], values[at:]
    apart = abs(float(right.mean()) - float(left.mean()))
    if apart <= ERRORS * noise * math.sqrt(1 / len(left) + 1 / len(right)):
        return ()
    return (*_splits(left, noise), at, *(at + later for later in _splits(right, noise)))


def _levels(values: Times, changes: Sequence[int]) -> list[float]:
    bounds = zip((0, *changes), (*changes, len(values)), strict=True)
    return [float(np.median(values[start:end])) for start, end in bounds]
