"""The timing loop and the detection of a steady state, under a clock that moves when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench.sampling import WINDOW_PASSES, BatchSteps, QuerySteps, Recorder, warm_up
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs
from edgedeploy.testing import FakeClock, FakeSession, fake_target
from edgedeploy.testing.fakes import FakeSteps

MS = 1_000_000


def recorder(cost: Callable[[int], int], **around: int) -> Recorder:
    clock = FakeClock()
    return Recorder(FakeSteps(clock, cost, **around), clock)


def test_each_part_is_timed_by_itself() -> None:
    found = recorder(lambda i: 20 * MS + i, prepare=3 * MS, finish=2 * MS)
    assert found.run(0.1, 1) == 4
    passes = found.passes()
    assert passes.prepare == (3 * MS,) * 4
    assert passes.compute == tuple(20 * MS + i for i in range(4))
    assert passes.finish == (2 * MS,) * 4
    assert passes.seconds()[0] == pytest.approx(0.025)


def test_a_run_goes_on_until_there_are_enough() -> None:
    found = recorder(lambda i: 1000 * MS)
    assert found.run(0.5, 7) == 7


def test_a_run_ends_at_its_limit() -> None:
    found = recorder(lambda i: 0)
    assert found.run(10.0, 1, limit=1000) == 1000


def test_runs_follow_one_another_and_nothing_is_lost() -> None:
    clock = FakeClock()
    steps = FakeSteps(clock, lambda i: (i + 1) * MS)
    found = Recorder(steps, clock)
    found.run(0.0, 1)
    found.reserve(3)
    found.run(0.0, 20)
    assert steps.seen == list(range(21))
    assert found.passes().compute == tuple((i + 1) * MS for i in range(21))
    assert found.passes(1, 3).compute == (2 * MS, 3 * MS)


def test_progress_is_told_once_per_second_and_outside_of_the_samples() -> None:
    clock = FakeClock()
    found = Recorder(FakeSteps(clock, lambda i: 100 * MS), clock)
    told: list[float] = []

    def report(share: float) -> None:
        told.append(share)
        clock.advance(50 * MS)

    found.run(5.0, 1, report=report)
    assert len(told) == 4
    assert told == sorted(told)
    assert set(found.passes().compute) == {100 * MS}
    assert set(found.passes().prepare) == {0}


def test_passes_know_when_they_began() -> None:
    clock = FakeClock(now=7 * MS)
    found = Recorder(FakeSteps(clock, lambda i: 20 * MS, prepare=MS), clock)
    found.run(0.05, 1)
    clock.advance(100 * MS)
    found.run(0.05, 1)
    assert found.passes(0, 3).began == (0, 21 * MS, 42 * MS)
    assert found.passes(3).began == (0, 21 * MS, 42 * MS)
    assert found.passes(3).wait == ()
    assert found.passes(3).times()[-1] == pytest.approx(0.042)


def test_enough_is_asked_once_a_second_outside_of_the_samples() -> None:
    clock = FakeClock()
    found = Recorder(FakeSteps(clock, lambda i: 100 * MS), clock)
    found.run(0.0, 1)
    asked: list[int] = []

    def enough(times: Any) -> bool:
        asked.append(len(times))
        clock.advance(500 * MS)
        assert set(times) == {0.1}
        return len(times) >= 25

    assert found.run(10.0, 7, enough=enough) == 25
    assert asked == [10, 15, 20, 25]
    assert set(found.passes(1).compute) == {100 * MS}


def test_nothing_is_enough_before_the_minimum() -> None:
    found = recorder(lambda i: 1000 * MS)
    assert found.run(100.0, 7, enough=lambda times: True) == 7


def test_of_a_stride_one_pass_is_kept_and_all_samples_take_part() -> None:
    clock = FakeClock()
    steps = FakeSteps(clock, lambda i: (i + 1) * MS)
    found = Recorder(steps, clock)
    found.run(0.0, 4, stride=3)
    assert found.passes().compute == (MS, 4 * MS, 7 * MS, 10 * MS)
    assert steps.seen == list(range(10))


def test_waits_that_are_known_afterwards() -> None:
    found = recorder(lambda i: 20 * MS)
    found.run(0.0, 1)
    found.run(0.0, 2)
    found.set_waits([3, 4])
    assert found.passes(1).wait == (3, 4)
    assert found.passes(0, 1).wait == ()
    assert found.seconds(1) == pytest.approx([0.020000003, 0.020000004])
    with pytest.raises(UsageError, match="1 waits for 2 passes"):
        found.set_waits([3])


def test_a_query_is_the_sum_of_its_passes() -> None:
    clock = FakeClock()
    steps = FakeSteps(clock, lambda i: (i + 1) * MS, prepare=MS, finish=2 * MS, batch=2)
    queries = QuerySteps(steps, 3)
    assert queries.batch == 6
    found = Recorder(queries, clock)
    found.run(0.0, 2)
    passes = found.passes()
    assert passes.prepare == (3 * MS, 3 * MS)
    assert passes.compute == (6 * MS, 15 * MS)
    assert passes.finish == (6 * MS, 6 * MS)
    assert steps.seen == list(range(6))


def test_a_constant_model_is_steady_after_three_windows() -> None:
    found = recorder(lambda i: 20 * MS)
    assert warm_up(found, 3.0)
    assert found.count == 3 * 8  # a window is a twentieth of 3 s


def test_a_slow_model_has_windows_of_five_passes() -> None:
    found = recorder(lambda i: 200 * MS)
    assert warm_up(found, 10.0)
    assert found.count == 3 * WINDOW_PASSES


def test_a_model_that_settles_is_steady_when_it_has() -> None:
    found = recorder(lambda i: 20 * MS + max(0, 40 - i) * MS)
    assert warm_up(found, 10.0)
    assert found.count > 40
    assert found.passes(found.count - 1).compute == (20 * MS,)


def test_a_model_that_never_settles_is_said_to_be_unsteady() -> None:
    found = recorder(lambda i: int(MS * 1.02**i))
    assert not warm_up(found, 3.0)
    assert 3.0 <= found.passes().seconds().sum() < 3.6


def test_jumping_between_two_speeds_is_no_steady_state() -> None:
    found = recorder(lambda i: (20 if i // 8 % 2 else 30) * MS)
    assert not warm_up(found, 3.0)


class Columns(FakeSession):
    """Gives the mean of every sample, and remembers its inputs."""

    def __init__(self, keep_batch: bool = True) -> None:
        super().__init__()
        self.keep_batch, self.batches = keep_batch, [[0.0]][:0]

    def run(self, inputs: Any, graph: str = "main") -> Outputs:
        means = inputs["image"].mean(axis=(1, 2, 3))
        self.batches.append([float(mean) for mean in means])
        return {"scores": np.stack([means, -means], axis=1) if self.keep_batch else means[:1, np.newaxis]}


def test_samples_are_cycled() -> None:
    session = Columns()
    clock = FakeClock(tick=1)
    Recorder(BatchSteps(fake_target(session, samples=3), session, "main", 1), clock).run(0.0, 5)
    assert session.batches == [[0], [1], [2], [0], [1]]


def test_a_batch_is_stacked_from_the_samples_and_taken_apart_again() -> None:
    session = Columns()
    steps = BatchSteps(fake_target(session, samples=3), session, "main", 2)
    ready = steps.prepare(1)
    assert ready.inputs["image"].shape == (2, 3, 4, 4)
    results = steps.finish(ready, steps.compute(ready))
    assert session.batches == [[2, 0]]
    assert [result.tolist() for result in results] == [[[2, -2]], [[0, 0]]]


def test_a_graph_that_loses_the_batch_is_refused() -> None:
    session = Columns(keep_batch=False)
    steps = BatchSteps(fake_target(session), session, "main", 2)
    ready = steps.prepare(0)
    with pytest.raises(UsageError, match=r"'scores' has shape \[1, 1\] for a batch of 2"):
        steps.finish(ready, steps.compute(ready))
