"""Speed over a long run: change points, throttling, what is held; and quiet where nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgedeploy.bench.endurance import Endurance, change_points, endurance
from edgedeploy.bench.measurement import Passes
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.testing import fake_measurement, fake_process

MS = 1_000_000


def ran(cost: Callable[[float], float], minutes: float = 10.0, noise: float = 0.02, seed: int = 0) -> Endurance:
    """A run whose passes take ``cost(t)`` seconds at t seconds, with noise."""
    draw, now, began, spent = np.random.default_rng(seed), 0.0, [], []
    while now < 60 * minutes:
        took = cost(now) * float(np.exp(noise * draw.standard_normal()))
        began.append(int(now * 1e9))
        spent.append(int(took * 1e9))
        now += took
    zeros = (0,) * len(spent)
    process = fake_process(
        [], samples=Passes(zeros, tuple(spent), zeros, (), tuple(began)), telemetry=Telemetry(now, 5e-8)
    )
    return endurance(fake_measurement(process, scenario=Scenario("sustained")))


def test_a_device_that_throttles_once() -> None:
    """As a phone that goes from 196 ms to 400 ms; here after three minutes."""
    found = ran(lambda t: 0.196 if t < 180 else 0.4)
    assert found.throttled == pytest.approx(180, abs=25)
    assert found.peak == pytest.approx(0.196, rel=0.02)
    assert found.sustained == pytest.approx(0.4, rel=0.02)
    assert found.ratio == pytest.approx(0.49, rel=0.03)
    assert len(found.times) == len(found.medians) == 60
    assert found.sustained_range[0] <= found.sustained <= found.sustained_range[1]


def test_a_device_that_throttles_in_steps() -> None:
    found = ran(lambda t: 0.1 if t < 100 else 0.12 if t < 300 else 0.15)
    assert found.throttled == pytest.approx(100, abs=20)
    assert found.sustained == pytest.approx(0.15, rel=0.02)


def test_a_device_that_warms_up_slowly() -> None:
    found = ran(lambda t: 0.1 * (1 + 0.5 * min(1.0, t / 300)))
    assert found.throttled is not None
    assert 10 < found.throttled < 200
    assert found.ratio == pytest.approx(0.7, abs=0.04)


def test_a_device_that_recovers() -> None:
    found = ran(lambda t: 0.15 if 200 < t < 400 else 0.1)
    assert found.throttled == pytest.approx(200, abs=20)
    assert found.ratio == pytest.approx(1.0, abs=0.01)


def test_getting_faster_is_no_throttling() -> None:
    found = ran(lambda t: 0.2 if t < 60 else 0.1)
    assert found.throttled is None
    assert found.ratio == pytest.approx(1.0, abs=0.01)


def test_a_spike_is_no_change() -> None:
    assert ran(lambda t: 0.3 if 100 < t < 103 else 0.1).throttled is None


def test_clean_runs_have_no_change() -> None:
    draw = np.random.default_rng(1)
    alarms = sum(bool(change_points(0.1 * np.exp(0.02 * draw.standard_normal(60)))) for _ in range(400))
    assert alarms <= 4


def test_processes_follow_one_another() -> None:
    telemetry = Telemetry(4.0, 5e-8)
    began = tuple(range(0, 4000 * MS, 40 * MS))
    columns = [Passes((0,) * 100, (ms * MS,) * 100, (0,) * 100, (), began) for ms in (20, 30)]
    processes = [fake_process([], samples=passes, telemetry=telemetry) for passes in columns]
    found = endurance(fake_measurement(*processes, scenario=Scenario("sustained")))
    assert found.throttled == pytest.approx(4.0)
    assert found.times[-1] > 7.5


@pytest.mark.parametrize("count", [1, 5, 9, 29])
def test_short_runs_have_a_curve_and_no_change(count: int) -> None:
    found = endurance(fake_measurement(fake_process([20 * MS] * count), scenario=Scenario("sustained")))
    assert len(found.medians) == max(1, count // 5)
    assert (found.throttled, found.ratio) == (None, 1.0)


def test_levels_that_are_nearly_the_same_are_one() -> None:
    values = np.repeat([1.0, 1.03, 1.3], 10)
    assert change_points(values) == (20,)
    assert change_points(np.repeat([1.0, 1.3, 1.0], 10)) == (10, 20)
