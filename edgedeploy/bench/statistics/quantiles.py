"""Order statistics: which percentiles a sample supports, and how sure one can be of them.

Everything here follows from one fact: of ``n`` independent samples, the number that lies below the true ``q`` quantile
is binomial(n, q). No shape of the distribution is assumed, which suits latencies: they have no shape to rely on. See
H. A. David and H. N. Nagaraja, "Order Statistics", 3rd ed. 2003, section 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError

#: How sure one has to be that the largest sample is at or above the quantile before the quantile is reported.
SUPPORT = 0.99


@dataclass(frozen=True)
class TooFew:
    """The answer where a percentile is refused: it needs ``needed`` samples, and there are ``have``.

    Where each sample is the mean of ``mean_of`` passes, there are none of single passes, and no number would do.
    """

    q: float
    have: int
    needed: int
    mean_of: int = 1

    def __str__(self) -> str:
        if self.mean_of > 1:
            return (
                f"{label(self.q)} of single passes is unknown, since each sample is the mean of {self.mean_of} passes"
            )
        return f"{label(self.q)} needs {self.needed} samples, and there are {self.have}"


def label(q: float) -> str:
    """``p50``, ``p99``, ``p99.9``."""
    return f"p{q * 100:.6g}"


def needed(q: float, confidence: float = SUPPORT) -> int:
    """The smallest n whose extreme sample lies beyond the ``q`` quantile with ``confidence``: 1 - q^n >= confidence.

    Below the median the extreme is the minimum, and q is counted from there.

    Raises:
        UsageError: ``q`` is not strictly between 0 and 1.
    """
    _check(q)
    tail = max(q, 1 - q)
    n = max(1, math.floor(math.log1p(-confidence) / math.log(tail)) - 1)
    while 1 - tail**n < confidence:  # the logarithms are rounded; the definition decides
        n += 1
    return n


def quantile(values: Sequence[float] | npt.NDArray[np.generic], q: float) -> float | TooFew:
    """The ``q`` quantile of ``values``, or a refusal where there are fewer than `needed`.

    Between two samples it is interpolated by the median-unbiased rule (R. J. Hyndman and Y. Fan, "Sample quantiles in
    statistical packages", 1996, definition 8); at one half that is the ordinary median.
    """
    if len(values) < needed(q):
        return TooFew(q, len(values), needed(q))
    return float(np.quantile(np.asarray(values), q, method="median_unbiased"))


def interval(
    values: Sequence[float] | npt.NDArray[np.generic], q: float, confidence: float = 0.95
) -> tuple[float, float] | TooFew:
    """Two of the samples that have the true ``q`` quantile between them with at least ``confidence``.

    Equal tails: each side may miss with (1 - confidence) / 2. Refused where there are fewer than `needed`. The samples
    are taken for independent; `edgedeploy.bench.statistics.uncertainty` has the interval for those that are not.
    """
    n = len(values)
    return TooFew(q, n, needed(q)) if n < needed(q) else order_interval(np.asarray(values), q, confidence, n)


def order_interval(
    values: npt.NDArray[np.generic], q: float, confidence: float, effective: float
) -> tuple[float, float]:
    """The interval of `interval` where the samples tell only as much as ``effective`` independent ones.

    The ranks among so many are scaled to those that there are. Where so few support no such interval, it is everything
    from the smallest to the largest sample.
    """
    _check(q)
    ordered = np.sort(values)
    n, count = len(ordered), max(1, min(len(ordered), math.floor(effective)))
    tail = (1 - confidence) / 2
    below = _at_most(count, q)
    # x[k] (from 0) is above the quantile with probability P(at most k samples lie below it).
    low = int(np.searchsorted(below, tail, side="right")) - 1
    high = int(np.searchsorted(below, 1 - tail, side="left"))
    first = math.floor((low + 0.5) * n / count - 0.5 + 1e-9) if low >= 0 else 0
    last = math.ceil((high + 0.5) * n / count - 0.5 - 1e-9) if high < count else n - 1
    return float(ordered[max(0, first)]), float(ordered[min(n - 1, last)])


def _at_most(n: int, q: float) -> npt.NDArray[np.float64]:
    """P(binomial(n, q) <= k) for k = 0 .. n, by sums of logarithms: n may be a million."""
    k = np.arange(n)
    steps = np.log((n - k) / (k + 1)) + math.log(q) - math.log1p(-q)
    logs = n * math.log1p(-q) + np.concatenate(([0.0], np.cumsum(steps)))
    return np.cumsum(np.exp(logs))


def _check(q: float) -> None:
    if not 0 < q < 1:
        raise UsageError(f"A percentile lies strictly between 0 and 100, and {q * 100:g} does not.")
