"""Thinning keeps every spike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.report.thin import envelope, running_median


def test_few_values_stay_as_they_are() -> None:
    at, values = np.arange(5.0), np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    found = envelope(at, values, 10)
    assert found.most == 1
    np.testing.assert_array_equal(found.at, at)
    np.testing.assert_array_equal(found.low, values)
    np.testing.assert_array_equal(found.high, values)


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.floats(0, 10), st.floats(-1e6, 1e6)), min_size=1, max_size=300),
)
def test_no_column_is_lost_and_no_extreme(columns: int, steps: list[tuple[float, float]]) -> None:
    at = np.cumsum([step for step, _ in steps])
    values = np.array([value for _, value in steps])
    found = envelope(at, values, columns)
    assert len(found.at) <= max(columns, 1)
    assert found.low.min() == values.min()
    assert found.high.max() == values.max()
    assert (found.low <= found.high).all()
    assert (np.diff(found.at) >= 0).all()
    assert found.most * len(found.at) >= len(values)


def test_one_spike_among_many_is_in_its_own_column() -> None:
    values = np.ones(100_000)
    values[73_210] = 9.0
    found = envelope(np.arange(100_000.0), values, 400)
    assert int(found.high.argmax()) == 292
    assert (found.high == 9.0).sum() == 1
    assert found.most == 250


def test_the_running_median_follows_a_step_and_not_a_spike() -> None:
    values = np.array([1.0] * 100 + [2.0] * 100)
    values[50] = 99.0
    at, middle = running_median(np.arange(200.0), values, 40)
    assert len(at) == 40
    assert set(middle) == {1.0, 2.0}
