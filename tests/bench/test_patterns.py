"""Faults put into a run under a fake clock, driven through the real recorder and worker, are found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench import worker
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.run import assemble
from edgedeploy.bench.target import Job
from edgedeploy.testing import FakeClock, FakeSession, fake_environment, fake_measurement, fake_process, fake_target
from edgedeploy.testing.fakes import fake_times

MS = 1_000_000
#: Processes of a run.
PROCESSES = 3


class Faulty(FakeSession):
    """Takes log-normal times around ``base``; those of pass i of the samples are changed by ``fault(i, time)``."""

    def __init__(self, clock: FakeClock, base: float, seed: int, fault: Callable[[int, float], float]) -> None:
        super().__init__(clock, self._time, facts={"threads": 1})
        self._times, self._fault = np.asarray(fake_times(20_000, seed), np.float64) * base / 20e6, fault
        self.warm: int | None = None

    def _time(self, run: int) -> int:
        time = float(self._times[run])
        return int(time if self.warm is None else self._fault(run - self.warm, time))

    def tell(self, event: str, fields: dict[str, Any]) -> None:
        """Hear from the worker when the warm-up is over."""
        if fields.get("phase") == "sampling":
            self.warm = self.runs


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measurement]:
    """A measurement of processes with a fault, which is told the process, the pass and its nanoseconds."""

    def measured(base: float, duration: float, fault: Callable[[int, int, float], float]) -> Measurement:
        answers = []
        for process in range(PROCESSES):
            clock = FakeClock()
            session = Faulty(clock, base, process, partial(fault, process))
            monkeypatch.setattr(worker, "load", lambda job, session=session: fake_target(session, samples=1))
            answer = worker.measure(
                Job("here", "net.edge", duration=duration / PROCESSES, watch=0), session.tell, clock
            )
            here, quiet = fake_environment(), replace(answer.process, telemetry=fake_process([1]).telemetry)
            answers.append(replace(answer, before=here, after=here, process=quiet))
        return assemble(answers, "now", duration)

    return measured


def test_nothing_is_found_where_nothing_is(measured: Callable[..., Measurement]) -> None:
    assert doubts(measured(20 * MS, 30.0, lambda process, made, time: time)) == ()


def test_a_slow_drift_of_ten_per_cent(measured: Callable[..., Measurement]) -> None:
    found = doubts(measured(20 * MS, 30.0, lambda process, made, time: time * (1 + 0.1 * made / 500)))
    assert len(found) == PROCESSES
    assert "Process 1 of 3 drifted: from 19.9 ms to 21.9 ms" in found[0]
    assert "10% slower at the end. Does it get hot, or throttle?" in found[0]


def test_a_slow_drift_of_ten_per_cent_over_all_processes(measured: Callable[..., Measurement]) -> None:
    found = doubts(measured(20 * MS, 30.0, lambda process, made, time: time * (1 + 0.1 * (process + made / 500) / 3)))
    assert any("drifted" in one or "apart" in one for one in found)


def test_passes_that_become_faster(measured: Callable[..., Measurement]) -> None:
    found = doubts(measured(20 * MS, 30.0, lambda process, made, time: time * (1.1 - 0.1 * made / 500)))
    assert all("faster at the end. It may still have been warming up" in one for one in found)
    assert found


def test_a_clock_with_two_states_that_last(measured: Callable[..., Measurement]) -> None:
    found = doubts(measured(20 * MS, 60.0, lambda process, made, time: time * (1.23 if made // 300 % 2 else 1)))
    assert len(found) >= PROCESSES
    assert "Process 1 of 3 ran at two speeds, " in found[0]
    assert " and changed " in found[0]
    assert "Compare by passes taken in turn" in found[0]


def test_a_clock_with_two_speeds_pass_by_pass(measured: Callable[..., Measurement]) -> None:
    draw = np.random.default_rng(0)
    found = doubts(measured(20 * MS, 60.0, lambda process, made, time: time * (1.3 if draw.random() < 0.3 else 1)))
    assert "mixed pass by pass, " in found[0]
    assert "% of them slow" in found[0]


def test_a_spike_of_70_ms_each_500_calls(measured: Callable[..., Measurement]) -> None:
    (found,) = doubts(measured(2 * MS, 15.0, lambda process, made, time: 70 * MS if made % 500 == 250 else time))
    assert "passes took 70.0 ms or so, where the median is 2.0" in found
    assert "one in 500, every 1." in found
    assert "Something runs regularly" in found


def test_a_neighbour_that_runs_for_moments(measured: Callable[..., Measurement]) -> None:
    (found,) = doubts(measured(20 * MS, 60.0, lambda process, made, time: time * (2.5 if made % 413 < 8 else 1)))
    assert "bursts: something else ran for moments" in found


def test_too_few_samples_for_a_p99(measured: Callable[..., Measurement]) -> None:
    (found,) = doubts(measured(20 * MS, 6.0, lambda process, made, time: time), asked=(0.5, 0.99))
    assert "samples support no p99, which needs 459; measure for about 9." in found


def test_passes_that_are_like_those_before_them() -> None:
    draw, level, times = np.random.default_rng(0), 0.0, []
    for _ in range(400):
        level = 0.97 * level + draw.normal(0, 0.004)
        times.append(int(20 * MS * np.exp(level)))
    (found,) = doubts(fake_measurement(fake_process(times)))
    assert "consecutive passes are alike for about" in found
    assert "its 400 samples tell as much as" in found


def test_short_runs_of_passes_that_are_alike() -> None:
    draw = np.random.default_rng(0)
    made = [fake_process([int(t) for t in 20 * MS * np.exp(np.repeat(draw.normal(0, 0.05, 5), 10))]) for _ in range(3)]
    assert any("consecutive passes are alike" in one for one in doubts(fake_measurement(*made)))


def test_many_processes_of_a_hundred_passes_are_not_alike_by_chance() -> None:
    alarms = 0
    for run in range(20):
        made = [fake_process(fake_times(100, 1000 * run + i, 0.05, 0.0)) for i in range(24)]
        alarms += bool(doubts(fake_measurement(*made)))
    assert alarms <= 2


def test_speeds_that_follow_the_samples_are_no_doubt() -> None:
    noise = np.asarray(fake_times(600, 1, 0.01, 0.0))
    times = [int(time * (1.5 if i % 3 == 0 else 1)) for i, time in enumerate(noise)]
    assert doubts(fake_measurement(fake_process(times), sample_count=3)) == ()
    assert "two speeds" in doubts(fake_measurement(fake_process(times), sample_count=1))[0]


def test_samples_of_many_sizes_are_no_two_speeds() -> None:
    """Sixteen of them, of which one is as slow as the valley between the others is."""
    levels = np.exp(np.random.default_rng(0).normal(0, 0.15, 16))
    made = []
    for seed in range(3):
        noise = np.asarray(fake_times(500, seed, 0.02, 0.0), np.float64)
        made.append(fake_process([int(time) for time in noise * np.resize(levels, 500)]))
    assert doubts(fake_measurement(*made, sample_count=16)) == ()


def test_a_second_speed_that_is_rare_does_not_follow_the_samples() -> None:
    slow = np.random.default_rng(0).random(1000) < 0.08
    times = [int(time) for time in np.asarray(fake_times(1000, 0, 0.02, 0.0)) * np.where(slow, 1.25, 1.0)]
    (found,) = doubts(fake_measurement(fake_process(times), sample_count=2))
    assert "ran at two speeds" in found


def test_a_clock_of_milliseconds_is_said_to_be_coarse_and_not_to_have_speeds() -> None:
    times = [time // MS * MS for time in fake_times(600, 1)]
    (found,) = doubts(fake_measurement(fake_process(times)))
    assert found.startswith("The clock moves in steps of 1.00 ms, and the median of compute is ")


def test_few_far_passes_that_rule_the_mean() -> None:
    times = list(fake_times(700, 3, outliers=0.0))
    for place in (31, 99, 270, 333, 480, 600, 641):
        times[place] *= 30
    (found,) = doubts(fake_measurement(fake_process(times)))
    assert "of all time: quote percentiles, not the mean or a rate" in found


def test_false_alarms_are_rare() -> None:
    """Under 5 % over all doubts; ``python -m benchmarks.false_alarms`` prints the rates of many more runs."""
    alarms = runs = 0
    for size in (20, 60, 300, 1500):
        for spread, outliers in ((0.01, 0.0), (0.05, 0.01)):
            for seed in range(15):
                made = [fake_process(fake_times(size, 3 * seed + i, spread, outliers)) for i in range(3)]
                alarms += bool(doubts(fake_measurement(*made)))
                runs += 1
    assert alarms < 0.05 * runs
