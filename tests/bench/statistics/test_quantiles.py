"""Order statistics against exact counting and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.statistics.quantiles import TooFew, interval, label, needed, order_interval, quantile
from edgedeploy.errors import UsageError


@pytest.mark.parametrize(("q", "count"), [(0.5, 7), (0.9, 44), (0.99, 459), (0.999, 4603), (0.1, 44), (0.01, 459)])
def test_samples_that_a_percentile_needs(q: float, count: int) -> None:
    assert needed(q) == count


@given(st.floats(0.5, 0.9999), st.floats(0.5, 0.999))
def test_needed_is_the_smallest_number_by_definition(q: float, confidence: float) -> None:
    n = needed(q, confidence)
    assert 1 - q**n >= confidence
    assert n == 1 or 1 - q ** (n - 1) < confidence


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_percentile_lies_inside(q: float) -> None:
    with pytest.raises(UsageError, match="strictly between"):
        needed(q)


@pytest.mark.parametrize(("q", "count"), [(0.9, 44), (0.99, 459), (0.999, 4603)])
def test_a_percentile_is_refused_until_there_are_enough(q: float, count: int) -> None:
    refused = quantile(range(count - 1), q)
    assert refused == TooFew(q, count - 1, count)
    assert str(refused) == f"{label(q)} needs {count} samples, and there are {count - 1}"
    assert isinstance(interval(range(count - 1), q), TooFew)
    assert isinstance(quantile(range(count), q), float)
    assert isinstance(interval(range(count), q), tuple)


def test_the_median_is_the_ordinary_one() -> None:
    assert quantile([5, 1, 3, 2, 4, 7, 6, 8], 0.5) == 4.5


def test_labels() -> None:
    assert [label(q) for q in (0.5, 0.99, 0.999)] == ["p50", "p99", "p99.9"]


def test_the_interval_of_a_median_is_that_of_exact_counting() -> None:
    """Of 100 samples, the 40th and the 61st: P(X <= 39) = 0.0176 <= 0.025 and P(X <= 40) = 0.0284 > 0.025."""
    below = [sum(math.comb(100, i) for i in range(k + 1)) / 2**100 for k in range(100)]
    low = max(k for k in range(100) if below[k] <= 0.025)
    high = min(k for k in range(100) if below[k] >= 0.975)
    assert (low, high) == (39, 60)
    assert interval(range(100), 0.5) == (low, high)


@pytest.mark.parametrize(("n", "q"), [(7, 0.5), (50, 0.5), (44, 0.9), (459, 0.99)])
def test_the_interval_covers_as_often_as_it_says(n: int, q: float) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        low, high = interval(generator.random(n), q)  # type: ignore[misc]
        covered += low <= q <= high
    assert covered >= 930


@given(st.lists(st.integers(0, 10**9), min_size=44, max_size=200), st.sampled_from([0.5, 0.9]))
def test_the_quantile_lies_in_its_interval(values: list[int], q: float) -> None:
    low, high = interval(values, q)  # type: ignore[misc]
    value = quantile(values, q)
    assert isinstance(value, float)
    assert min(values) <= low <= value <= high <= max(values)


def test_a_million_samples_do_not_overflow() -> None:
    low, high = interval(np.arange(1_000_000), 0.5)  # type: ignore[misc]
    assert 498_900 < low < 500_000 < high < 501_100


def test_fewer_effective_samples_widen_the_interval() -> None:
    values = np.arange(1000)
    widths = [high - low for low, high in (order_interval(values, 0.5, 0.95, count) for count in (1000, 100, 20))]
    assert widths[0] < widths[1] < widths[2]
    assert widths[1] == pytest.approx(widths[0] * math.sqrt(10), rel=0.1)


@pytest.mark.parametrize("effective", [0.1, 1, 5])
def test_so_few_effective_samples_that_the_interval_is_everything(effective: float) -> None:
    assert order_interval(np.arange(1000), 0.5, 0.95, effective) == (0, 999)
