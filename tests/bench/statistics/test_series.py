"""What a series says about itself: each number on made-up series, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.bench.statistics.series import bursts, drift, likeness, modes, steps
from edgedeploy.bench.statistics.uncertainty import Times
from edgedeploy.testing.fakes import fake_times


def clean(count: int, seed: int = 0, spread: float = 0.02) -> Times:
    return np.asarray(fake_times(count, seed, spread, 0.0), np.float64) / 1e9


def times(values: Times) -> Times:
    begun: Times = np.cumsum(values) - values
    return begun


def test_a_drift_has_its_size_and_sign() -> None:
    for rise in (0.1, -0.1):
        values = clean(500) * np.linspace(1, 1 + rise, 500)
        found = drift(values, times(values))
        assert found is not None
        assert found.rise == pytest.approx(rise, abs=0.02)
        assert found.p < 1e-6


def test_no_drift_where_there_is_none() -> None:
    found = [drift(values, times(values)) for values in (clean(300, seed) for seed in range(40))]
    assert sum(one is not None and one.p < 0.05 for one in found) <= 5


def test_a_wandering_speed_is_less_of_a_drift_than_it_seems() -> None:
    """Long waves make trends that mean nothing: most of them are not told."""
    draw, told = np.random.default_rng(0), 0
    for _ in range(40):
        wave = np.zeros(600)
        for i in range(1, 600):
            wave[i] = 0.95 * wave[i - 1] + draw.normal(0, 0.01)
        values = 0.02 * np.exp(wave)
        found = drift(values, times(values))
        told += found is not None and found.p < 1e-3
    assert told <= 2


def test_a_handful_of_samples_has_no_trend() -> None:
    assert drift(clean(5), times(clean(5))) is None


def test_two_speeds_that_last() -> None:
    values = clean(1000) * np.where(np.arange(1000) // 250 % 2, 1.25, 1.0)
    found = modes(values, times(values))
    assert found is not None
    assert found.low == pytest.approx(0.020, rel=0.02)
    assert found.high == pytest.approx(0.025, rel=0.02)
    assert found.share == pytest.approx(0.5, abs=0.02)
    assert (found.lasting, found.switches) == (True, 3)
    assert found.dwell == pytest.approx(values.sum() / 4, rel=0.05)


def test_two_speeds_that_come_mixed() -> None:
    slow = np.random.default_rng(0).random(1000) < 0.3
    values = clean(1000) * np.where(slow, 1.25, 1.0)
    found = modes(values, times(values))
    assert found is not None
    assert not found.lasting
    assert found.share == pytest.approx(slow.mean(), abs=0.01)
    assert sum(a == b for a, b in zip(found.slow, slow.tolist(), strict=True)) > 990


def test_one_hill_is_one_speed_however_wide_or_lopsided() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        for values in (clean(600, 1, 0.2), 0.02 + draw.exponential(0.005, 600), 0.02 + draw.random(600) * 0.01):
            assert modes(values, times(values)) is None


def test_speeds_closer_than_four_per_cent_are_one() -> None:
    values = clean(2000, spread=0.001) * np.where(np.arange(2000) % 2, 1.03, 1.0)
    assert modes(values, times(values)) is None


def test_steps_of_a_coarse_clock_are_no_speeds() -> None:
    values = np.round(clean(1000, spread=0.05), 3)
    assert steps(values).coarse
    assert steps(values).step == pytest.approx(0.001)
    assert modes(values, times(values), step=0.001) is None
    assert modes(values, times(values)) is not None


def test_bursts_that_come_regularly_are_told_from_those_that_do_not() -> None:
    groups = [clean(1700, seed) for seed in range(3)]
    for group in groups:
        group[200::500] = 0.07
    found = bursts(groups, [times(group) for group in groups])
    assert found is not None
    assert found.period == 500
    assert found.seconds == pytest.approx(500 * 0.02, rel=0.05)
    assert found.count == 9
    assert found.typical == pytest.approx(0.07)
    at_random = clean(5000)
    at_random[np.random.default_rng(0).integers(0, 5000, 12)] = 0.07
    found = bursts([at_random], [times(at_random)])
    assert found is not None
    assert (found.period, found.groups) == (None, None)


def test_regular_bursts_among_other_outliers() -> None:
    values = np.asarray(fake_times(6000, 1), np.float64) / 1e10
    values[100::500] = 0.07
    found = bursts([values], [times(values)])
    assert found is not None
    assert (found.count, found.period) == (12, 500)


def test_bursts_close_together() -> None:
    values = clean(2000)
    for start in (100, 900, 1500):
        values[start : start + 9] *= 2
    found = bursts([values], [times(values)])
    assert found is not None
    assert (found.count, found.groups, found.period) == (27, 3, None)
    assert found.excess == pytest.approx(27 / 2027, rel=0.1)


def test_no_bursts() -> None:
    assert bursts([clean(500)], [times(clean(500))]) is None


def test_likeness_of_independent_samples_is_one() -> None:
    assert likeness(clean(2000)).time < 1.3
    waves = clean(2000) * (1 + 0.2 * np.sin(np.arange(2000) / 60))
    found = likeness(waves)
    assert found.time > 10
    assert found.effective == pytest.approx(2000 / found.time)


def test_likeness_that_is_no_chance_is_told_from_a_time_that_is_a_guess() -> None:
    """Of a hundred independent passes the time is often over two; that they are alike is not what that says."""
    found = [likeness(clean(100, seed)) for seed in range(300)]
    assert sum(one.effective < 44 for one in found) >= 3
    assert sum(one.p < 1e-3 for one in found) <= 2
    assert 3 <= sum(one.p < 0.05 for one in found) <= 30
    draw = np.random.default_rng(0)
    assert sum(likeness(0.02 * np.exp(np.repeat(draw.normal(0, 0.05, 10), 6))).p < 1e-3 for _ in range(50)) >= 45
    assert likeness(np.full(50, 0.02)).p == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=120))
def test_any_series_has_answers(values: list[int]) -> None:
    series = np.asarray(values, np.float64) / 1e9
    begun = times(series)
    drift(series, begun)
    modes(series, begun)
    bursts([series, series], [begun, begun])
    assert 0 <= steps(series).tied <= 1
    assert 1 <= likeness(series).time <= len(series)
