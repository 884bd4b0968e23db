"""Is one faster than the other? Ratios of any percentile with intervals, and a rank test.

Samples come as groups: one series of latencies in time order per process. Two kinds of comparison:

* `compare_groups`: two sets of processes that ran at different times, as in two runs a week apart;
* `compare_pairs`: passes of both taken in turn, as `edgedeploy.bench.pair` does. What slows the machine for a while
  slows both, and drops out of the ratio. Where there is a choice, this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedeploy.bench.statistics.quantiles import TooFew, needed
from edgedeploy.bench.statistics.uncertainty import Times, between, effective_count, of_mean, two_sided


@dataclass(frozen=True)
class Ratio:
    """The second over the first: 1.2 means that the second takes 1.2 times as long.

    Args:
        value: ratio of the ``q`` quantiles.
        low: lower end of its interval, which holds the true ratio with ``confidence``; ``high`` the upper end.
        q: which quantile; 0.5 is the median.
        confidence: of the interval.
        p: two-sided, of a rank test that neither tends to be slower.
        superiority: the probability that a pass of the second takes longer than one of the first, or where ``paired``
            the median of a turn; 0.5 is neither.
        counts: samples of the first and of the second.
        effective: as many independent samples would tell as much.
        paired: whether the passes were taken in turn.
    """

    value: float
    low: float
    high: float
    q: float
    confidence: float
    p: float
    superiority: float
    counts: tuple[int, int]
    effective: tuple[float, float]
    paired: bool

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 1 out: one of the two is slower."""
        return not self.low <= 1 <= self.high

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies within 1 / (1 + margin) and 1 + margin: the same, for that purpose."""
        return self.low >= 1 / (1 + margin) and self.high <= 1 + margin


def compare_groups(
    first: Sequence[Times], second: Sequence[Times], q: float = 0.5, confidence: float = 0.95
) -> Ratio | TooFew:
    """Two sets of processes that ran apart; each item is one process's samples in seconds, in time order.

    The ends of the intervals of both are combined on logarithms (MOVER: G. Y. Zou and A. Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27, 2008). ``TooFew`` where one of the two has
    fewer samples than the ``q`` quantile needs.
    """
    a, b = [_clean(values) for values in first], [_clean(values) for values in second]
    found = _apart(a, b, q, confidence)
    if isinstance(found, TooFew):
        return found
    value, low, high = found
    superiority, p = rank_test(a, b)
    counts = sum(map(len, a)), sum(map(len, b))
    effective = effective_count(a, q, confidence), effective_count(b, q, confidence)
    return Ratio(value, low, high, q, confidence, p, superiority, counts, effective, paired=False)


def rank_test(first: Sequence[Times], second: Sequence[Times]) -> tuple[float, float]:
    """The probability that the second takes longer, and the two-sided p of that it is one half.

    Mann and Whitney's statistic as a mean of placements (E. Brunner and U. Munzel, "The nonparametric Behrens-Fisher
    problem", Biometrical Journal 42, 2000), with the variance of means that allows for autocorrelation and processes.
    """
    a, b = np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
    of_first, of_second = [_placed(values, b) for values in first], [_placed(values, a) for values in second]
    superiority = float(np.mean(np.concatenate(of_second)))
    one, other = of_mean(of_first), of_mean(of_second)
    variance = one.variance + other.variance
    if variance <= 0:
        return superiority, 1.0 if superiority == 0.5 else 0.0
    freedom = variance**2 / (one.variance**2 / one.freedom + other.variance**2 / other.freedom)
    return superiority, two_sided((superiority - 0.5) / math.sqrt(variance), freedom)


def compare_pairs(
    pairs: Sequence[tuple[Sequence[Times], Sequence[Times]]], q: float = 0.5, confidence: float = 0.95
) -> Ratio | TooFew:
    """Passes taken in turn: per pair of processes the blocks of the first and those of the second, round by round.

    Rounds are put together until they have samples enough for a ``q`` quantile; the logarithms of the ratios of these
    stretches are a series, whose median and interval are given back. Its rank test is the sign test of that series.
    """
    counts = tuple(sum(len(block) for pair in pairs for block in pair[side]) for side in (0, 1))
    if min(counts) < needed(q):
        return TooFew(q, min(counts), needed(q))
    series = [_stretches(a, b, q) for a, b in pairs]
    series = [values for values in series if len(values)]
    pooled = np.concatenate(series) if series else np.zeros(0)
    # `between` takes logarithms by itself, of times and of ratios alike
    ratios = [np.exp(values) for values in series]
    interval = between(ratios, 0.5, confidence) if ratios else TooFew(0.5, 0, needed(0.5))
    if isinstance(interval, TooFew):
        return TooFew(q, min(counts), math.ceil(min(counts) * interval.needed / max(1, interval.have)))
    signs = [(values > 0) + 0.5 * (values == 0) for values in series]
    share, found = float(np.mean(np.concatenate(signs))), of_mean(signs)
    variance = max(found.variance, 0.25 / len(pooled))
    p = two_sided((share - 0.5) / math.sqrt(variance), found.freedom)
    effective = effective_count(series, 0.5, confidence)
    value = math.exp(float(np.median(pooled)))
    return Ratio(value, *interval, q, confidence, p, share, (counts[0], counts[1]), (effective, effective), paired=True)


def _apart(a: Sequence[Times], b: Sequence[Times], q: float, confidence: float) -> tuple[float, float, float] | TooFew:
    """Ratio and interval of the ``q`` quantiles, second over first."""
    one, other = between(a, q, confidence), between(b, q, confidence)
    if isinstance(one, TooFew) or isinstance(other, TooFew):
        return min((found for found in (one, other) if isinstance(found, TooFew)), key=lambda found: found.have)
    x, y = _quantile(a, q), _quantile(b, q)
    down = math.hypot(math.log(y / other[0]), math.log(one[1] / x))
    up = math.hypot(math.log(other[1] / y), math.log(x / one[0]))
    return y / x, y / x * math.exp(-down), y / x * math.exp(up)


def _stretches(first: Sequence[Times], second: Sequence[Times], q: float) -> Times:
    """Logarithms of the ratio of the ``q`` quantiles of each stretch of rounds."""
    rounds = min(len(first), len(second))
    if not rounds:
        return np.zeros(0)
    typical = min(float(np.median([len(block) for block in side])) for side in (first, second))
    least = 1 if q == 0.5 else math.ceil(2 / min(q, 1 - q) / max(1.0, typical))
    pieces = np.array_split(np.arange(rounds), max(1, rounds // least))
    found = []
    for piece in pieces:
        one, other = (_quantile([_clean(side[i]) for i in piece], q) for side in (first, second))
        found.append(math.log(other / one))
    return np.asarray(found)


def _quantile(groups: Sequence[Times], q: float) -> float:
    return float(np.quantile(np.concatenate(groups), q, method="median_unbiased"))


def _placed(values: Times, others: Times) -> Times:
    """The share of ``others`` (sorted) below each value, ties by half."""
    left, right = np.searchsorted(others, values, side="left"), np.searchsorted(others, values, side="right")
    return (left + right) / (2 * len(others))


def _clean(values: Times) -> Times:
    """As float64, and nothing at or below zero: a clock that stood still, where its logarithm would be needed."""
    return np.maximum(np.asarray(values, np.float64), 1e-9)
