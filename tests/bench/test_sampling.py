"""The timing loop and the detection of a steady state, under a clock that moves when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench.sampling import WINDOW_PASSES, BatchSteps, Recorder, warm_up
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs
from edgedeploy.testing import FakeClock, FakeSession, fake_target

MS = 1_000_000


class Costs:
    """Steps that take what they are told; pass i computes for ``cost(i)``."""

    def __init__(self, clock: FakeClock, cost: Callable[[int], int], prepare: int = 0, finish: int = 0) -> None:
        self.clock, self.cost, self.around = clock, cost, (prepare, finish)
        self.seen: list[int] = []

    def prepare(self, index: int) -> int:
        self.seen.append(index)
        self.clock.advance(self.around[0])
        return index

    def compute(self, ready: int) -> int:
        self.clock.advance(self.cost(ready))
        return ready

    def finish(self, ready: int, outputs: int) -> None:
        assert ready == outputs
        self.clock.advance(self.around[1])


def recorder(cost: Callable[[int], int], **around: int) -> Recorder:
    clock = FakeClock()
    return Recorder(Costs(clock, cost, **around), clock)


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
    steps = Costs(clock, lambda i: (i + 1) * MS)
    found = Recorder(steps, clock)
    found.run(0.0, 1)
    found.reserve(3)
    found.run(0.0, 20)
    assert steps.seen == list(range(21))
    assert found.passes().compute == tuple((i + 1) * MS for i in range(21))
    assert found.passes(1, 3).compute == (2 * MS, 3 * MS)


def test_progress_is_told_once_per_second_and_outside_of_the_samples() -> None:
    clock = FakeClock()
    found = Recorder(Costs(clock, lambda i: 100 * MS), clock)
    told: list[float] = []

    def report(share: float) -> None:
        told.append(share)
        clock.advance(50 * MS)

    found.run(5.0, 1, report=report)
    assert len(told) == 4
    assert told == sorted(told)
    assert set(found.passes().compute) == {100 * MS}
    assert set(found.passes().prepare) == {0}


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
