"""Queries that come by a clock of their own: misses, queues, wake-ups, and what idling does to a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench import drive as module
from edgedeploy.bench.drive import Limits, drive
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.sampling import Recorder
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.bench.schedule import notes, schedule, share_interval
from edgedeploy.testing import FakeClock, fake_measurement, fake_passes, fake_process
from edgedeploy.testing.fakes import FakeSteps

MS = 1_000_000


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep to the very end: a clock that does not move by itself cannot be waited for."""
    monkeypatch.setattr(module, "SPIN", 0)


def run(scenario: Scenario, cost: Callable[[int], int], duration: float, clock: FakeClock | None = None) -> Measurement:
    """What a session of this ``cost`` gives, after a warm-up of 30 passes back to back."""
    clock = clock or FakeClock()
    recorder = Recorder(FakeSteps(clock, cost), clock)
    recorder.run(0.0, 30)
    drive(scenario, recorder, Limits(duration, 7), sleep=clock.sleep)
    process = fake_process([], warmup=recorder.passes(1, 30), samples=recorder.passes(30))
    return fake_measurement(process, scenario=scenario, duration=duration)


def test_a_pace_that_is_kept() -> None:
    found = schedule(run(Scenario("paced", rate=100.0), lambda i: 4 * MS, 1.0))
    assert (found.queries, found.late, found.unanswered, found.misses) == (100, 0, 0, 0.0)
    assert found.load == pytest.approx(0.4)
    assert (found.growth, found.behind, found.wake_up) == (0.0, 0.0, 0.0)
    assert found.service == found.back_to_back == pytest.approx(0.004)
    assert notes(100.0, found) == []


def test_a_pace_that_is_too_fast() -> None:
    found = schedule(run(Scenario("paced", rate=100.0), lambda i: 15 * MS, 3.0))
    assert found.queries == 300
    assert found.unanswered == 80  # 220 were answered in 3 s and a tenth more
    assert found.late == 220
    assert found.misses == 1.0
    assert found.load == pytest.approx(1.5)
    assert found.growth == pytest.approx(1 / 3)
    assert found.behind == pytest.approx(219 * 0.005)
    (told,) = notes(100.0, found)
    assert told == (
        "It cannot keep up: an answer takes 15.0 ms on average and a query is due every 10.0 ms; the queue grew by "
        "333 ms each second, and the last query waited 1.09 s. It answers 66.67 per second."
    )


def test_a_spike_makes_those_behind_it_late() -> None:
    def spiked(deadline: float | None) -> int:
        scenario = Scenario("paced", rate=100.0, deadline=deadline)
        return schedule(run(scenario, lambda i: (35 if i == 50 else 4) * MS, 1.0)).late

    assert spiked(None) == 5  # 35, 29, 23, 17 and 11 ms; then 5
    assert spiked(0.012) == 4


def test_a_spike_within_the_deadline_is_none() -> None:
    made = run(Scenario("paced", rate=100.0, deadline=0.04), lambda i: (35 if i == 50 else 4) * MS, 1.0)
    assert schedule(made).misses == 0.0


def test_a_server_that_cannot_keep_up() -> None:
    scenario = Scenario("server", rate=100.0, deadline=0.1, seed=1)
    found = schedule(run(scenario, lambda i: 20 * MS, 4.0))
    assert found.load == pytest.approx(2.0)
    assert found.growth == pytest.approx(0.5, abs=0.1)
    assert 130 < found.unanswered < 230
    assert found.misses is not None
    assert found.misses > 0.9
    assert notes(100.0, found)[0].startswith("It cannot keep up: an answer takes 20.0 ms on average")


def test_queries_of_the_second_process_are_due_at_times_of_their_own() -> None:
    scenario = Scenario("server", rate=100.0, deadline=0.1)
    second = run(scenario.of_process(1), lambda i: 20 * MS, 2.0)
    made = replace(second, conditions=replace(second.conditions, scenario=scenario, duration=4.0))
    first = run(scenario, lambda i: 20 * MS, 2.0)
    both = schedule(replace(made, processes=(*first.processes, *second.processes)))
    assert both.unanswered == schedule(first).unanswered + schedule(second).unanswered
    assert both.queries == schedule(first).queries + schedule(second).queries
    assert schedule(first).queries != schedule(second).queries


def test_a_server_with_a_queue_that_comes_and_goes_keeps_up() -> None:
    found = schedule(run(Scenario("server", rate=100.0, deadline=0.1), lambda i: 5 * MS, 10.0))
    assert (found.unanswered, found.growth) == (0, 0.0)
    assert 0.45 < found.load < 0.55
    assert notes(100.0, found) == []


def test_a_server_without_a_deadline_misses_none() -> None:
    found = schedule(run(Scenario("server", rate=100.0), lambda i: 5 * MS, 1.0))
    assert (found.misses, found.misses_interval, found.late) == (None, None, 0)


def test_late_wake_ups_are_told_and_queues_are_none() -> None:
    found = schedule(run(Scenario("paced", rate=100.0), lambda i: 4 * MS, 1.0, FakeClock(late=MS)))
    assert found.wake_up == found.wake_up_latest == pytest.approx(0.001)
    assert notes(100.0, found) == ["The timer woke up 1.00 ms late (median, 1.00 ms at most), which counts as wait."]
    behind = schedule(run(Scenario("paced", rate=100.0), lambda i: 15 * MS, 1.0, FakeClock(late=MS)))
    assert behind.wake_up == 0.0


def test_a_session_that_is_slow_after_a_pause_is_fast_in_single_stream_and_slow_at_a_pace() -> None:
    """55 ms back to back, and 130 ms for images that come every 200 ms: a number of the one is none of the other."""

    def sleepy(scenario: Scenario) -> Measurement:
        clock, ended = FakeClock(), [0]

        def cost(i: int) -> int:
            spent = (130 if clock.now - ended[0] > 50 * MS else 55) * MS
            ended[0] = clock.now + spent
            return spent

        return run(scenario, cost, 10.0, clock)

    single, paced = sleepy(SINGLE_STREAM), sleepy(Scenario("paced", rate=5.0))
    assert single.latency == pytest.approx(0.055)
    assert paced.latency == pytest.approx(0.130)
    assert any(key.startswith("scenario") for key in single.differences(paced))  # they may not be subtracted
    found = schedule(paced)
    assert found.service == pytest.approx(0.130)
    assert found.back_to_back == pytest.approx(0.055)
    assert notes(5.0, found) == [
        "An answer takes 130 ms at this rate and took 55.0 ms back to back in the warm-up: 2.36 times as long."
    ]


def test_misses_that_follow_one_another_leave_their_share_open() -> None:
    """Sixty misses of 1000 queries, in two queues or one by one: two queues might as well have been one or four."""

    def missed(late: Callable[[int], bool]) -> tuple[float, float]:
        scenario = Scenario("paced", rate=100.0)
        passes = fake_passes([11 * MS if late(i) else MS for i in range(1000)])
        waited = replace(passes, wait=(0,) * 1000, began=tuple(i * 10 * MS for i in range(1000)))
        found = schedule(fake_measurement(fake_process([], samples=waited), scenario=scenario, duration=10.0))
        assert (found.late, found.misses) == (60, 0.06)
        assert found.misses_interval is not None
        return found.misses_interval

    singly, queues = missed(lambda i: i % 50 in (3, 17, 31)), missed(lambda i: i % 500 < 30)
    assert singly == pytest.approx(share_interval(60, 1000), rel=0.1)
    assert queues[0] < singly[0] / 2
    assert queues[1] > singly[1] * 2


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_of_a_share_has_it_inside(part: int, more: int) -> None:
    low, high = share_interval(part, part + more)
    assert 0 <= low <= part / (part + more) <= high <= 1
    assert low < high


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)]
)
def test_intervals_of_shares(part: int, whole: int, low: float, high: float) -> None:
    found: Any = share_interval(part, whole)
    assert found == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
