from __future__ import annotations

import numpy as np

from edgedeploy.bench.interleave import BLOCK, interleave
from edgedeploy.testing import FakeClock


def test_a_machine_that_slows_down_does_not_change_the_ratio() -> None:
    clock, slowdown = FakeClock(), 1.0

    def work(cost: int) -> None:
        nonlocal slowdown
        slowdown *= 1.001  # every call is slower than the one before
        clock.advance(round(cost * slowdown))

    calls = {"a": lambda: work(1_000_000), "b": lambda: work(2_000_000)}
    seconds = interleave(calls, duration=3.0, clock=clock)
    ratio = np.median(seconds["b"]) / np.median(seconds["a"])
    assert seconds["a"].max() > 2.5 * seconds["a"].min()
    assert 1.97 < ratio < 2.03


def test_three_rounds_are_made_however_short_the_time() -> None:
    clock = FakeClock()
    seconds = interleave({"a": lambda: clock.advance(5), "b": lambda: clock.advance(7)}, duration=1e-9, clock=clock)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3 * BLOCK, "b": 3 * BLOCK}
    np.testing.assert_allclose(seconds["a"], 5e-9)
    np.testing.assert_allclose(seconds["b"], 7e-9)
