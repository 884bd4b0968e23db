"""When to stop: one process by itself, and several together."""

from __future__ import annotations

import numpy as np

from edgedeploy.bench.measurement import Process
from edgedeploy.bench.stopping import Goal, decide, precise, reaches, share_of
from edgedeploy.testing import fake_process
from edgedeploy.testing.fakes import fake_times

MS = 1_000_000


def processes(*medians: float, count: int = 400, **changed: object) -> list[Process]:
    return [
        fake_process([int(ms / 20 * time) for time in fake_times(count, i, 0.01, 0.0)], **changed)
        for i, ms in enumerate(medians)
    ]


def test_a_narrow_interval_is_precise() -> None:
    times = np.asarray(fake_times(500, 0, 0.05, 0.0), np.float64) / 1e9
    assert precise(times, 0.05)
    assert not precise(times, 0.002)
    assert not precise(times[:43], 0.5)  # no p90 of 43 samples


def test_alike_samples_are_less_precise() -> None:
    draw = np.random.default_rng(0)
    free = 0.02 * np.exp(draw.normal(0, 0.05, 1000))
    alike = np.sort(free.reshape(10, 100), axis=1).ravel()
    assert precise(free, 0.012)
    assert not precise(alike, 0.012)


def test_the_reach_is_half_the_width_over_the_middle() -> None:
    found = reaches([np.random.default_rng(0).permutation(np.linspace(0.9, 1.1, 1001))])
    assert found[0.5] is not None
    assert 0.005 < found[0.5] < 0.02
    assert reaches([np.ones(20)]) == {0.5: 0.0, 0.9: None}


def test_no_goal_is_the_number_of_processes() -> None:
    goal = Goal(3)
    assert decide(processes(20, 20), goal, 1.0) is None
    stop = decide(processes(20, 20, 30), goal, 1.0)
    assert stop is not None
    assert stop.reached is None
    assert share_of(goal) is None


def test_a_precision() -> None:
    goal = Goal(3, precision=0.02, sampling=60.0)
    assert decide(processes(20, 20, 22), goal, 1.0) is None
    stop = decide(processes(20, 20, 20), goal, 1.0)
    assert stop is not None
    assert stop.reached


def test_the_time_for_a_precision_is_that_of_sampling() -> None:
    goal = Goal(3, precision=0.02, sampling=8.0)  # each fake process sampled for 3 s
    stop = decide(processes(20, 20, 22), goal, 1.0)
    assert stop is not None
    assert not stop.reached


def test_an_unsteady_process_is_not_stable() -> None:
    goal = Goal(2, stable=60.0)
    assert decide(processes(20, 20, steady=False), goal, 1.0) is None
    stop = decide(processes(20, 20, steady=False), goal, 61.0)
    assert stop is not None
    assert not stop.reached
    assert stop.why.startswith("2 of the last 2 processes reached no steady state")


def test_only_the_last_ones_have_to_agree() -> None:
    goal = Goal(2, stable=60.0)
    assert decide(processes(30, 20), goal, 1.0) is None
    stop = decide(processes(30, 20, 20), goal, 1.0)
    assert stop is not None
    assert stop.reached


def test_both_goals_have_to_be_reached() -> None:
    goal = Goal(3, precision=0.02, sampling=60.0, stable=60.0)
    assert decide(processes(20, 20, 20, steady=False), goal, 1.0) is None
    stop = decide(processes(20, 20, 20, steady=False), goal, 61.0)
    assert stop is not None
    assert not stop.reached
    stop = decide(processes(20, 20, 20), goal, 1.0)
    assert stop is not None
    assert stop.reached
    assert "where 2.00% was asked for; the medians of the last 3 of 3" in stop.why
