"""What a series of latencies, in the order they were taken, says about itself: drift, two speeds, bursts, steps.

Each question has a function that gives back its numbers, or ``None`` where there is nothing to tell. No sample is ever
left out of a measurement for what is found here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.statistics.uncertainty import Times, integrated_time, two_sided

#: Blocks whose medians a trend is looked for in, and the samples that one has at least; eight blocks of fewer samples
#: where there are not as many.
BLOCKS, BLOCK_SAMPLES = 24, 5
#: Two speeds have to be this much apart (0.04 is 4 %), and each has to have at least this share of the passes.
APART, LEAST_SHARE = 0.04, 0.05
#: A valley between two speeds holds at most this share of the lower hill, by this many standard deviations of counts.
VALLEY, CLEARLY = 0.5, 4.5
#: A speed lasts where the changes are rarer than this share of what passes mixed at random would show.
LASTING = 0.3
#: An outlier is this many standard deviations (of the middle half, on logarithms) above the median, and this factor.
FAR, FACTOR = 6.0, 1.3
#: Outliers more frequent than this are no outliers.
RARE = 0.05
#: Distances of outliers are regular where four of five are within this share of the typical one.
REGULAR = 0.05
#: Distances at which consecutive passes are compared.
LAGS = 5
#: Outliers nearer to one another than so many passes are one burst.
NEAR = 5


@dataclass(frozen=True)
class Drift:
    """A trend: ``rise`` is the change over the run as a share of the median (0.1: 10 % slower at the end).

    ``p`` is that of no trend, ``blocks`` the number of block medians that it was found in.
    """

    rise: float
    p: float
    blocks: int


@dataclass(frozen=True)
class Modes:
    """Two speeds.

    Args:
        low: median seconds of the fast passes; ``high`` of the slow ones.
        share: of the slow ones among all.
        switches: changes from one to the other.
        dwell: seconds that one lasts, on average.
        lasting: whether the machine stays with one for a while; else they come mixed, pass by pass.
        depth: passes in the valley between them over those on the lower hill.
        slow: for each pass, whether it is a slow one.
    """

    low: float
    high: float
    share: float
    switches: int
    dwell: float
    lasting: bool
    depth: float
    slow: tuple[bool, ...]


@dataclass(frozen=True)
class Bursts:
    """Passes far above the rest.

    Args:
        count: how many there are; ``typical`` is their median in seconds, ``longest`` the longest.
        excess: share of all time that they took beyond the median.
        period: passes from one to the next, where they come regularly; ``seconds`` is that in time.
        groups: where they come close together, the number of bursts that they form.
    """

    count: int
    typical: float
    longest: float
    excess: float
    period: float | None
    seconds: float | None
    groups: int | None


@dataclass(frozen=True)
class Steps:
    """Values that repeat: ``step`` seconds is the smallest distance of two of the ``distinct`` values.

    ``tied`` is the share of samples that have an equal.
    """

    step: float
    distinct: int
    tied: float

    @property
    def coarse(self) -> bool:
        """Whether a clock that moves in steps explains the values: several of them, and nearly all of them repeat."""
        return self.distinct >= 5 and self.tied >= 0.9


@dataclass(frozen=True)
class Likeness:
    """Consecutive passes that are alike: ``time`` of them tell as much as one that is independent of the others.

    ``p`` is the probability that independent ones look so much alike.
    """

    time: float
    count: int
    effective: float
    p: float


def likeness(values: Times) -> Likeness:
    """The autocorrelation of the logarithms, outliers cut off at three standard deviations of the middle half.

    Of a short series the time is a guess. Whether there is any likeness is a sharper question: of independent passes
    the first `LAGS` autocorrelations are normal with variance 1 / n each (G. E. P. Box and D. A. Pierce, "Distribution
    of residual autocorrelations", JASA 65, 1970), and so is their sum.
    """
    logs = _logs(values)
    middle, spread = _middle(logs)
    logs = np.clip(logs, middle - 3 * spread, middle + 3 * spread) if spread > 0 else logs
    time, _ = integrated_time(logs)
    n, centred = len(values), logs - logs.mean()
    power = float(centred @ centred)
    found = sum(float(centred[lag:] @ centred[:-lag]) for lag in range(1, LAGS + 1))
    p = two_sided(found / power * math.sqrt(n / LAGS), math.inf) / 2 if found > 0 and time > 1 else 1.0
    return Likeness(time, n, n / time, p)


def drift(values: Times, times: Times) -> Drift | None:
    """Theil and Sen's slope of block medians over ``times``, and Kendall's test of a trend; ``None`` for few samples.

    H. B. Mann, "Nonparametric tests against trend", 1945; P. K. Sen, "Estimates of the regression coefficient based on
    Kendall's tau", 1968. What autocorrelation of the blocks is left widens the variance (K. H. Hamed and A. R. Rao, "A
    modified Mann-Kendall trend test for autocorrelated data", 1998), here by the integrated time of the residuals.
    """
    count = min(BLOCKS, max(len(values) // BLOCK_SAMPLES, min(len(values), 8)))
    if count < 6:
        return None
    blocks = np.array_split(np.arange(len(values)), count)
    y = np.array([np.median(values[block]) for block in blocks])
    x = np.array([np.median(times[block]) for block in blocks])
    if x[-1] <= x[0]:
        return None
    first, second = np.triu_indices(count, 1)
    rises, runs = y[second] - y[first], x[second] - x[first]
    slope = float(np.median(rises[runs > 0] / runs[runs > 0]))
    time, _ = integrated_time(y - slope * x)
    ties = np.unique(y, return_counts=True)[1]
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    score = abs(float(np.sign(rises).sum())) - 1
    p = two_sided(max(0.0, score) / math.sqrt(variance * time), math.inf) if variance > 0 else 1.0
    length = (x[-1] - x[0]) * count / (count - 1)
    return Drift(slope * length / float(np.median(values)), p, count)


def modes(values: Times, times: Times, step: float = 0.0) -> Modes | None:
    """Two hills with a valley between them, on logarithms; ``None`` where there is one hill.

    The passes inside a window that slides over the values are counted. A valley is real where it holds at most half of
    the lower of the highest hills beside it, and the difference is `CLEARLY` times the standard deviation of counts.
    The window is never as narrow as a ``step`` of the clock, which leaves gaps that are none of the passes.
    """
    logs = np.sort(_logs(values))
    n = len(logs)
    low, high = float(logs[n // 50]), float(logs[-1 - n // 50])
    if n < 40 or high - low < math.log1p(APART):
        return None
    found: tuple[float, float, float] | None = None
    for pieces in (6, 10, 16, 24):
        width = (high - low) / pieces
        if width * float(np.median(values)) < 2.5 * step:
            break
        grid = np.linspace(low, high, 8 * pieces + 1)
        counts = _inside(logs, grid, width)
        hill = np.minimum(np.maximum.accumulate(counts), np.maximum.accumulate(counts[::-1])[::-1])
        shares = np.searchsorted(logs, grid) / n
        depths = counts / np.maximum(hill, 1)
        clear = (hill - counts) / np.sqrt(np.maximum(hill + counts, 1))
        clear[(shares < LEAST_SHARE) | (shares > 1 - LEAST_SHARE) | (depths > VALLEY)] = 0.0
        best = int(np.argmax(clear))
        if clear[best] >= CLEARLY and (found is None or clear[best] > found[0]):
            found = float(clear[best]), float(grid[best]), float(depths[best])
    return None if found is None else _modes(values, times, math.exp(found[1]), found[2])


def bursts(groups: Sequence[Times], times: Sequence[Times]) -> Bursts | None:
    """Outliers, and whether they come at regular distances or close together; ``None`` where there are none.

    ``groups`` has the samples of one process each, ``times`` when they began: a distance lies within one process.
    """
    pooled = np.concatenate(groups)
    logs = _logs(pooled)
    middle, spread = _middle(logs)
    edge = math.exp(middle + max(FAR * spread, math.log(FACTOR)))
    far = np.sort(pooled[pooled > edge])[::-1]
    if not 0 < len(far) <= RARE * len(pooled):
        return None
    excess = float((far - math.exp(middle)).sum() / pooled.sum())
    for count in _breaks(far):
        places = [np.flatnonzero(values >= far[count - 1]) for values in groups]
        gaps = np.concatenate([np.diff(place) for place in places])
        seconds = np.concatenate([np.diff(time[place]) for time, place in zip(times, places, strict=True)])
        if len(gaps) and np.median(gaps) >= NEAR and min(map(_irregular, (gaps, seconds))) <= REGULAR:
            period = float(np.median(gaps)), float(np.median(seconds))
            return Bursts(count, float(np.median(far[:count])), float(far[0]), excess, *period, None)
    close = _groups([np.flatnonzero(values > edge) for values in groups], len(pooled))
    return Bursts(len(far), float(np.median(far)), float(far[0]), excess, None, None, close)


def steps(values: Times) -> Steps:
    """The smallest distance of two different values, and how many values have an equal."""
    distinct, counts = np.unique(values, return_counts=True)
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0
    return Steps(step, len(distinct), float(counts[counts > 1].sum() / len(values)))


def _modes(values: Times, times: Times, edge: float, depth: float) -> Modes | None:
    slow = values > edge
    low, high = float(np.median(values[~slow])), float(np.median(values[slow]))
    if high < low * (1 + APART):
        return None
    share, n = float(slow.mean()), len(values)
    padded = np.pad(slow.astype(int), 2, mode="edge")
    smooth = np.convolve(padded, np.ones(5, int), "valid") >= 3  # a single stray pass is no change of the machine
    switches, steady = int((slow[1:] != slow[:-1]).sum()), int((smooth[1:] != smooth[:-1]).sum())
    lasting = switches < LASTING * 2 * share * (1 - share) * (n - 1)
    changes = steady if lasting else switches
    dwell = float(times[-1] - times[0] + values[-1]) / (changes + 1)
    return Modes(low, high, share, changes, dwell, lasting, depth, tuple(slow.tolist()))


def _inside(logs: Times, grid: Times, width: float) -> Times:
    """How many of the sorted ``logs`` lie within half a ``width`` of each point of the grid."""
    right, left = np.searchsorted(logs, grid + width / 2, "right"), np.searchsorted(logs, grid - width / 2, "left")
    return np.asarray(right - left, np.float64)


def _breaks(far: Times) -> list[int]:
    """How many of the largest outliers (falling) may belong together: all of them, or those above a wide gap."""
    logs = np.log(far)
    wide = np.argsort(logs[1:] - logs[:-1], kind="stable")[:3] + 1
    return [count for count in dict.fromkeys((*wide.tolist(), len(far))) if count >= 4]


def _irregular(gaps: npt.NDArray[np.generic]) -> float:
    """How far four of five gaps are from the typical one, at most, as a share of it; infinite where there are few.

    Three gaps are alike by chance more often: they have to be more so.
    """
    lengths = np.asarray(gaps, np.float64)
    typical = float(np.median(lengths)) if len(lengths) >= 3 else 0.0
    if typical <= 0:
        return math.inf
    off = np.abs(lengths / typical - 1)
    return 2.5 * float(off.max()) if len(off) == 3 else float(np.quantile(off, 0.8))


def _groups(places: Sequence[npt.NDArray[np.intp]], n: int) -> int | None:
    """The number of bursts, where outliers stand next to one another too often for chance."""
    count = sum(map(len, places))
    expected, found = NEAR * count**2 / n, sum(int((np.diff(place) < NEAR).sum()) for place in places)
    return None if found < 4 or found <= expected + 5 * math.sqrt(expected + 1) else count - found


def _middle(logs: Times) -> tuple[float, float]:
    """Median, and the standard deviation that the middle half would have of a normal distribution."""
    low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
    return float(middle), float(high - low) / 1.349


def _logs(values: Times) -> Times:
    """A clock that stood still counts as a nanosecond."""
    return np.log(np.maximum(values, 1e-9))
