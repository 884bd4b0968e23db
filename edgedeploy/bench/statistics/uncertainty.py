"""How sure a mean over passes is, where passes follow one another and processes differ; and quantiles by way of it.

Passes of one process are alike for a while (a clock that has risen, a neighbour that computes), and processes differ
from start to start. A formula for independent samples then promises too much. Here every question is turned into one
about a mean: a quantile is the value below which the mean of "is it below?" is ``q``. The variance of a mean has two
sources that can be seen, and `of_mean` adds them up:

* inside a process: variance of the samples times the integrated autocorrelation time over their number, with Sokal's
  window (U. Wolff, "Monte Carlo errors with less errors", Computer Physics Communications 156, 2004, sections 2 and 3);
* between processes: the variance of their means over their number.

The first is part of the second, so that their sum is too large where processes do not differ, by less than it would be
too small without; ``benchmarks/false_alarms.py`` prints how often the intervals cover the truth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.statistics.quantiles import TooFew, needed, order_interval

Times = npt.NDArray[np.float64]

#: The window of the autocorrelation ends at the first lag that is this many times the integrated time (Sokal).
WINDOW = 5.0
#: Degrees of freedom above which Student's distribution is taken for the normal one.
MANY = 1000.0


@dataclass(frozen=True)
class Uncertainty:
    """Of a mean: its ``variance``, as known from so many degrees of ``freedom``."""

    variance: float
    freedom: float


def integrated_time(values: Times) -> tuple[float, float]:
    """How many consecutive samples tell as much as one independent one (1 or more), and the degrees of freedom of it.

    1 for a series without autocorrelation; at most the length of the series.
    """
    n = len(values)
    centred = values - values.mean()
    power = float(centred @ centred)
    if n < 4 or power <= 1e-24 * n * float(np.abs(values).max(initial=0.0)) ** 2:
        return 1.0, max(1.0, n - 1.0)
    spectrum = np.abs(np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())) ** 2
    lags = np.fft.irfft(spectrum)[: n // 2] / power
    times = 2 * np.cumsum(lags) - 1  # 1 + 2 * the sum of all lags from 1 on
    wide = np.arange(len(times)) >= WINDOW * np.maximum(times, 0.2)
    window = int(np.argmax(wide)) if wide.any() else len(times) - 1
    span = 2 * window + 1
    return float(min(n, max(1.0, times[window] * (1 + span / n)))), max(1.0, n / span)


def of_mean(groups: Sequence[Times]) -> Uncertainty:
    """Of the mean over all samples of ``groups``, one series in time order per process."""
    total = sum(map(len, groups))
    inside, squares = 0.0, 0.0
    for values in groups:
        time, freedom = integrated_time(values)
        share = float(np.var(values)) * time * len(values) / total**2
        inside += share
        squares += share**2 / freedom
    between = 0.0
    if len(groups) > 1:
        centre = sum(float(values.sum()) for values in groups) / total
        weights = np.array([len(values) / total for values in groups])
        apart = np.array([float(values.mean()) - centre for values in groups])
        between = float((weights**2 * apart**2).sum()) * len(groups) / (len(groups) - 1)
        squares += between**2 / (len(groups) - 1)
    variance = inside + between
    return Uncertainty(variance, min(MANY, variance**2 / squares) if squares > 0 else MANY)


def effective_count(groups: Sequence[Times], q: float = 0.5, confidence: float = 0.95) -> float:
    """As many independent samples would tell the ``q`` quantile as well; at most the number that there are."""
    pooled = np.concatenate(groups)
    return effective_share([_below(values, float(np.quantile(pooled, q))) for values in groups], confidence)


def effective_share(groups: Sequence[Times], confidence: float = 0.95) -> float:
    """As many independent draws would tell as well how often something is so: ``groups`` are 1 where it is, else 0."""
    count = float(sum(map(len, groups)))
    share, found = float(np.mean(np.concatenate(groups))), of_mean(groups)
    if found.variance <= 0 or not 0 < share < 1:
        return count
    wider = student(confidence, found.freedom) / student(confidence, MANY)
    return min(count, max(1.0, share * (1 - share) / (found.variance * wider**2)))


def between(groups: Sequence[Times], q: float = 0.5, confidence: float = 0.95) -> tuple[float, float] | TooFew:
    """Two times that have the true ``q`` quantile between them, by order statistics of the effective count.

    R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47, 1952, has the idea: an
    interval of the share of samples below, read off at the samples. Where the effective count is too small for that,
    processes differ more than passes do, and each process counts as one value: Student's interval of the logarithms of
    their quantiles, which reaches beyond what was seen where there are few.
    """
    pooled = np.concatenate(groups)
    if len(pooled) < needed(q):
        return TooFew(q, len(pooled), needed(q))
    effective = effective_count(groups, q, confidence)
    found = order_interval(pooled, q, confidence, effective)
    if len(groups) < 2 or effective >= needed(q, (1 + confidence) / 2) or min(map(np.min, groups)) <= 0:
        return found
    each = np.log([float(np.quantile(values, q, method="median_unbiased")) for values in groups])
    reach = student(confidence, len(each) - 1.0) * float(np.std(each, ddof=1)) / math.sqrt(len(each))
    centre = float(np.mean(each))
    return min(found[0], math.exp(centre - reach)), max(found[1], math.exp(centre + reach))


def _below(values: Times, limit: float) -> Times:
    """1 where below, one half where equal: ties would else move the share to one side."""
    found: Times = (values < limit) + 0.5 * (values == limit)
    return found


@functools.lru_cache(maxsize=256)
def student(confidence: float, freedom: float) -> float:
    """Student's t that is exceeded to either side with probability 1 - ``confidence``."""
    t, step = 1.0, 1.0
    while abs(step) > 1e-9 * t:  # Newton's, from below: the probability is convex in t, so that no step goes too far
        step = (two_sided(t, freedom) - (1 - confidence)) / (2 * _density(t, freedom))
        t += step
    return t


def _density(t: float, freedom: float) -> float:
    """Of Student's distribution."""
    if freedom >= MANY:
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))


def two_sided(t: float, freedom: float) -> float:
    """The probability that Student's distribution is farther from zero than ``t``; normal from `MANY` degrees on."""
    if freedom >= MANY:
        return math.erfc(abs(t) / math.sqrt(2))
    root = math.sqrt(freedom)
    edge = math.atan(abs(t) / root)  # t = sqrt(freedom) * tan(angle): the density becomes cos(angle)^(freedom - 1)
    inside, outside = _cosines(0.0, edge, freedom), _cosines(edge, math.pi / 2, freedom)
    return outside / (inside + outside)


def _cosines(start: float, end: float, freedom: float) -> float:
    """The integral of cos^(freedom - 1), by Gauss's rule on 8 pieces."""
    nodes, weights = _gauss()
    edges = np.linspace(start, end, 9)
    half = (end - start) / 16
    angles = (edges[:-1, None] + half) + half * nodes
    return float((np.cos(angles).clip(1e-300) ** (freedom - 1) * weights).sum() * half)


@functools.cache
def _gauss() -> tuple[Times, Times]:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    return nodes, weights
