"""Intervals that hold what they promise, where samples are alike and processes differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedeploy.bench.statistics.quantiles import TooFew, interval
from edgedeploy.bench.statistics.uncertainty import (
    MANY,
    Times,
    between,
    effective_count,
    effective_share,
    integrated_time,
    student,
    two_sided,
)


def alike(size: int, likeness: float, draw: np.random.Generator) -> Times:
    steps = draw.normal(size=size + 100) * math.sqrt(1 - likeness**2)
    for i in range(1, len(steps)):
        steps[i] += likeness * steps[i - 1]
    return steps[100:]


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"), [(0.95, 1, 12.7062), (0.95, 2, 4.30265), (0.99, 30, 2.75), (0.95, MANY, 1.95996)]
)
def test_students_t(confidence: float, freedom: float, t: float) -> None:
    assert student(confidence, freedom) == pytest.approx(t, rel=1e-4)
    assert two_sided(student(confidence, freedom), freedom) == pytest.approx(1 - confidence, rel=1e-6)


def test_the_integrated_time_is_that_of_the_process() -> None:
    draw = np.random.default_rng(0)
    for likeness in (0.0, 0.5, 0.9):
        found = np.mean([integrated_time(alike(4000, likeness, draw))[0] for _ in range(10)])
        assert found == pytest.approx((1 + likeness) / (1 - likeness), rel=0.15)
    assert integrated_time(np.ones(50))[0] == 1


def test_one_process_of_independent_samples_has_the_ordinary_interval() -> None:
    values = np.random.default_rng(2).random(2000)
    low, high = between([values])  # type: ignore[misc]
    exact = interval(values, 0.5)
    assert isinstance(exact, tuple)
    assert low == pytest.approx(exact[0], abs=0.01)
    assert high == pytest.approx(exact[1], abs=0.01)


def test_alike_samples_and_processes_apart_count_for_less() -> None:
    draw = np.random.default_rng(0)
    free = [alike(500, 0.0, draw) for _ in range(3)]
    assert effective_count([alike(500, 0.9, draw) for _ in range(3)]) < effective_count(free) / 4
    assert effective_count([group + i for i, group in enumerate(free)]) < 6


def test_hits_in_a_row_tell_less_of_their_share_than_hits_apart() -> None:
    apart, row = np.zeros(1000), np.zeros(1000)
    apart[np.random.default_rng(0).permutation(1000)[:100]] = 1
    row[100:150] = row[700:750] = 1
    assert effective_share([apart]) > 400
    assert effective_share([row]) < 40
    assert effective_share([np.zeros(50), np.zeros(50)]) == 100  # nothing is seen that could be alike


@pytest.mark.parametrize(("likeness", "apart"), [(0.0, 0.0), (0.0, 5.0), (0.0, 50.0), (0.8, 0.0), (0.8, 5.0)])
def test_the_interval_holds_the_truth_where_the_ordinary_one_does_not(likeness: float, apart: float) -> None:
    draw, held, ordinary, runs = np.random.default_rng(4), 0, 0, 60
    inside = (1 + likeness) / (1 - likeness) / 200
    for _ in range(runs):
        groups = [alike(200, likeness, draw) + draw.normal() * math.sqrt(apart * inside) for _ in range(3)]
        groups = [np.exp(0.05 * group) for group in groups]
        low, high = between(groups)  # type: ignore[misc]
        held += low <= 1 <= high
        low, high = interval(np.concatenate(groups), 0.5)  # type: ignore[misc]
        ordinary += low <= 1 <= high
    assert held >= 0.9 * runs
    assert held >= ordinary
    if likeness or apart:
        assert ordinary < 0.9 * runs


def test_too_few() -> None:
    assert between([np.ones(6)]) == TooFew(0.5, 6, 7)
    assert between([np.ones(22), np.ones(21)], 0.9) == TooFew(0.9, 43, 44)


def test_equal_samples_have_an_interval_of_no_width() -> None:
    assert between([np.ones(50), np.ones(50)]) == (1.0, 1.0)
