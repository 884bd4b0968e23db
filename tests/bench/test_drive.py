"""Every scenario under a clock that moves when told; threads and processes where they matter are real."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.bench import drive as module
from edgedeploy.bench.drive import Drive, Limits, drive
from edgedeploy.bench.measurement import Passes
from edgedeploy.bench.sampling import LIMIT, BatchSteps, QuerySteps, Recorder
from edgedeploy.bench.scenario import Scenario
from edgedeploy.runtime import Outputs
from edgedeploy.tensors import Array
from edgedeploy.testing import FakeClock, FakeSession, fake_target
from edgedeploy.testing.fakes import FakeSteps

MS = 1_000_000


class Driven:
    """A run of ``scenario`` whose passes take ``cost`` after a warm-up of three, and what came of it."""

    def __init__(self, scenario: Scenario, cost: Callable[[int], int], limits: Limits, **clock: int) -> None:
        self.clock = FakeClock(**clock)
        self.steps = FakeSteps(self.clock, cost)
        self.recorder = Recorder(self.steps, self.clock)
        self.recorder.run(0.0, 3)
        self.told: list[tuple[int, float]] = []
        self.began = self.clock.now
        self.drive: Drive = drive(scenario, self.recorder, limits, self._report, self.clock.sleep)

    def _report(self, share: float) -> None:
        self.told.append((self.clock.now - self.began, share))

    @property
    def passes(self) -> Passes:
        return self.recorder.passes(3)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep to the very end: a clock that does not move by itself cannot be waited for."""
    monkeypatch.setattr(module, "SPIN", 0)


def test_single_stream_has_no_pauses() -> None:
    found = Driven(Scenario(), lambda i: 20 * MS, Limits(1.0, 7))
    assert len(found.passes) == 50
    assert found.passes.wait == ()
    assert found.passes.began == tuple(i * 20 * MS for i in range(50))
    assert found.drive.wall == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["single-stream", "sustained", "offline"])
def test_enough_ends_a_run_early(name: Any) -> None:
    found = Driven(Scenario(name), lambda i: 20 * MS, Limits(100.0, 7, lambda times: len(times) >= 100))
    assert 100 <= len(found.passes) <= 150


@pytest.mark.usefixtures("exact")
def test_a_pace_that_is_kept() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: 4 * MS, Limits(0.5, 7))
    assert found.passes.began == tuple(i * 10 * MS for i in range(50))
    assert found.passes.wait == (0,) * 50
    assert found.drive.wall == pytest.approx(0.494)
    assert found.steps.seen == list(range(53))


@pytest.mark.usefixtures("exact")
def test_a_pace_that_is_too_fast_makes_a_queue() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: 15 * MS, Limits(0.5, 7))
    assert found.passes.wait == tuple(i * 5 * MS for i in range(37))  # until a tenth more than 500 ms
    assert found.passes.seconds()[-1] == pytest.approx(0.015 + 36 * 0.005)
    assert found.clock.sleeps == []


@pytest.mark.usefixtures("exact")
def test_a_queue_is_caught_up_with() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: (35 if i == 3 else 4) * MS, Limits(0.1, 7))
    assert found.passes.wait == (0, 25 * MS, 19 * MS, 13 * MS, 7 * MS, MS, 0, 0, 0, 0)


@pytest.mark.usefixtures("exact")
def test_a_wake_up_that_is_late_is_recorded() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: 4 * MS, Limits(0.1, 7), late=2 * MS)
    assert found.passes.wait == (0, *(2 * MS,) * 9)


def test_the_last_moment_is_awake() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: 4 * MS, Limits(0.1, 7), tick=1000)
    assert len(found.clock.sleeps) == 9
    assert max(found.clock.sleeps) < 0.006 - module.SPIN / 1e9 + 1e-9
    assert min(found.clock.sleeps) > 0.006 - module.SPIN / 1e9 - 50e-6
    assert max(found.passes.wait) <= 3000  # the reading that says so, and that of the pass


@pytest.mark.usefixtures("exact")
def test_a_long_pause_is_not_silent() -> None:
    found = Driven(Scenario("paced", rate=0.2), lambda i: 4 * MS, Limits(20.0, 1))
    assert found.passes.began == tuple(i * 5000 * MS for i in range(4))
    moments = [moment for moment, _ in found.told]
    assert np.diff([0, *moments]).max() <= 2000 * MS
    assert len(moments) >= 14
    assert [share for _, share in found.told] == sorted(share for _, share in found.told)


@pytest.mark.usefixtures("exact")
def test_progress_is_told_while_a_queue_grows() -> None:
    found = Driven(Scenario("paced", rate=100.0), lambda i: 15 * MS, Limits(5.0, 7))
    assert len(found.told) == 5


@pytest.mark.usefixtures("exact")
def test_enough_is_asked_where_there_is_time_for_it() -> None:
    asked: list[int] = []

    def enough(times: Any) -> bool:
        asked.append(len(times))
        return len(asked) == 3

    found = Driven(Scenario("paced", rate=10.0), lambda i: 4 * MS, Limits(60.0, 7, enough))
    assert len(found.passes) == asked[-1] < 60
    assert found.passes.wait == (0,) * len(found.passes)
    hurried = Driven(Scenario("paced", rate=100.0), lambda i: 4 * MS, Limits(4.0, 7, enough))
    assert len(hurried.passes) == 400  # 6 ms are too short to sort thousands of times in


@pytest.mark.usefixtures("exact")
def test_the_minimum_of_a_pace_is_kept() -> None:
    found = Driven(Scenario("paced", rate=1.0), lambda i: 4 * MS, Limits(2.0, 7))
    assert len(found.passes) == 7


@pytest.mark.usefixtures("exact")
def test_a_server_answers_from_when_it_was_due() -> None:
    scenario = Scenario("server", rate=100.0, seed=5)
    found = Driven(scenario, lambda i: 6 * MS, Limits(2.0, 7))
    due, free = list(islice(scenario.due(), len(found.passes))), 0
    for i, at in enumerate(due):
        start = max(at, free)
        assert found.passes.began[i] == start
        assert found.passes.wait[i] == start - at
        free = start + 6 * MS
    assert max(found.passes.wait) > 6 * MS  # queues come and go at 60 % load
    assert due[-1] < 2000 * MS <= next(islice(scenario.due(), len(due), None))


@pytest.mark.usefixtures("exact")
@given(st.integers(0, 1000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_server_that_keeps_up_answers_all_that_are_due(seed: int) -> None:
    scenario = Scenario("server", rate=100.0, seed=seed)
    found = Driven(scenario, lambda i: 4 * MS, Limits(1.0, 7))
    due = [at for at in islice(scenario.due(), 300) if at < 1000 * MS]
    assert len(found.passes) == len(due)


@pytest.mark.usefixtures("exact")
def test_a_server_that_is_too_slow_ends_on_time() -> None:
    found = Driven(Scenario("server", rate=100.0), lambda i: 20 * MS, Limits(2.0, 7))
    assert 100 <= len(found.passes) <= 110
    assert found.drive.wall < 2.22
    assert found.passes.wait[-1] > 500 * MS


def test_multi_stream_records_queries() -> None:
    clock = FakeClock()
    recorder = Recorder(QuerySteps(FakeSteps(clock, lambda i: 5 * MS), 8), clock)
    drive(Scenario("multi-stream", samples_per_query=8), recorder, Limits(0.2, 5))
    assert recorder.passes().compute == (40 * MS,) * 5


def test_a_sustained_run_keeps_one_pass_of_several_where_there_would_be_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIMIT", 100)
    found = Driven(Scenario("sustained"), lambda i: 20 * MS, Limits(4.0, 7))
    assert len(found.passes) == 68  # of 200 passes 80 are to be kept: one of three, the first and the last among them
    assert np.diff(found.passes.began).tolist() == [60 * MS] * 67
    short = Driven(Scenario("sustained"), lambda i: 20 * MS, Limits(1.0, 7))
    assert len(short.passes) == 50


def test_offline_with_nothing_to_overlap_stays_in_one_thread() -> None:
    found = Driven(Scenario("offline"), lambda i: 20 * MS, Limits(1.0, 7))
    assert found.passes.compute == (20 * MS,) * 50
    assert found.passes.wait == ()
    assert found.drive.wall == pytest.approx(1.0)
    assert [moment for moment, _ in found.told] == [1000 * MS]
    assert len(Driven(Scenario("offline"), lambda i: 20 * MS, Limits(0.0, 7)).passes) == 7


class Threaded:
    """Steps that are seen by several threads; `compute` of a pass waits until the next one is prepared."""

    batch = 1

    def __init__(self, fails: str = "", error: BaseException | None = None) -> None:
        self.fails, self.error = fails, error or ValueError(fails)
        self.prepared = [threading.Event() for _ in range(LIMIT // 1000)]
        self.seen: dict[str, list[int]] = {"prepare": [], "compute": [], "finish": []}
        self.overlapped = 0
        self.threads: set[int] = set()

    def _do(self, part: str, index: int) -> None:
        self.seen[part].append(index)
        if part == self.fails and len(self.seen[part]) == 5:
            raise self.error

    def prepare(self, index: int) -> int:
        self.prepared[index].set()
        self._do("prepare", index)
        return index

    def compute(self, ready: int) -> dict[str, Array]:
        self._do("compute", ready)
        self.threads.add(threading.get_ident())
        self.overlapped += self.prepared[ready + 1].wait(0.05)
        return {"index": np.array([ready])}

    def finish(self, ready: int, outputs: dict[str, Array]) -> None:
        assert outputs["index"][0] == ready
        self._do("finish", ready)


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 0.0)


def offline(steps: Any, minimum: int = 20) -> Recorder:
    clock = FakeClock(tick=1000)
    recorder = Recorder(steps, clock)
    recorder.add(0, 1000, 1000, 1000)
    drive(Scenario("offline"), recorder, Limits(0.0, minimum))
    return recorder


@pytest.mark.usefixtures("pays")
def test_the_parts_of_offline_overlap_and_keep_their_order() -> None:
    steps = Threaded()
    recorder = offline(steps)
    assert recorder.count == 1 + 20
    assert steps.seen["prepare"][1:] == list(range(20))  # the first is to see where outputs go
    assert steps.seen["finish"] == list(range(20))
    assert steps.overlapped >= 19  # no pass follows the last
    assert steps.threads == {threading.get_ident()}
    assert len(recorder.passes(1).began) == 20


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("part", ["prepare", "compute", "finish"])
def test_a_failure_in_any_thread_is_raised_and_leaves_none(part: str) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=part):
        offline(Threaded(part))
    assert threading.active_count() == before


@pytest.mark.usefixtures("pays")
def test_an_interrupt_of_offline_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        offline(Threaded("compute", KeyboardInterrupt()))
    assert threading.active_count() == before


class Overwriting(FakeSession):
    """Has one buffer for its outputs, as sessions with bound outputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((1, 2), np.float32)

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        self.buffer[:] = self.runs
        self.runs += 1
        return {"scores": self.buffer}


@pytest.mark.usefixtures("pays")
def test_outputs_that_would_be_overwritten_are_copied() -> None:
    session = Overwriting()
    steps = BatchSteps(fake_target(session), session, "main", 1)
    results: list[Array] = []
    finish = steps.finish

    def keep(ready: Any, outputs: Outputs) -> list[Any]:
        results.extend(finish(ready, outputs))
        return []

    steps.finish = keep  # type: ignore[method-assign]
    offline(steps)
    assert [float(result[0, 0]) for result in results] == list(range(2, 22))


INTERRUPTED = """
import os, signal, threading
from edgedeploy.bench.remote import transport
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.target import Job

started = []
class Popen(transport.subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        started.append(self)
transport.subprocess.Popen = Popen

def follow(phase, share):
    if phase == "sampling":
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

signal.signal(signal.SIGINT, signal.default_int_handler)
scenario = Scenario("paced", rate=0.25)
job = Job("edgedeploy.testing:load_fake", "some/net.edge", "fake", duration=4.0, scenario=scenario)
try:
    run_worker(job, 60, follow)
except KeyboardInterrupt:
    print("interrupted", started[0].poll() is not None)
"""


def test_an_interrupt_between_two_queries_leaves_nothing_running() -> None:
    """The worker sleeps, for 28 s in all, when its parent is interrupted."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "interrupted True\n", done.stderr
