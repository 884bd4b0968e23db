"""The front door, over fake workers and real ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from edgedeploy.bench import run
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.run import BenchOptions, Progress, assemble, bench
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.stopping import MOST, stopped
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Answer
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.testing import fake_environment, fake_measurement, fake_process
from edgedeploy.testing.fakes import fake_times


def answer(**changed: Any) -> Answer:
    made = fake_measurement()
    values = {"conditions": made.conditions, "before": made.environment, "after": made.environment}
    return Answer(**{**values, "process": made.processes[0], **changed})


def test_the_duration_is_shared_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def worker(job: Job, silence: float, follow: Any, way: Any) -> Answer:
        jobs.append(job)
        follow("loading", None)
        follow("sampling", 0.5)
        return answer()

    monkeypatch.setattr(run, "run_worker", worker)
    seen: list[Progress] = []
    options = BenchOptions(threads=2, batch=4, duration=12.0, processes=2, options={"a": 1}, size=(320, 640))
    made = bench("net.edge", options, seen.append)
    assert len(made.processes) == 2
    assert made.conditions.duration == 12.0
    assert {job.duration for job in jobs} == {6.0}
    assert {job.minimum for job in jobs} == {7}
    assert (jobs[0].threads, jobs[0].batch, jobs[0].size, jobs[0].options) == (2, 4, (320, 640), {"a": 1})
    assert seen == [
        Progress(1, 2, "loading", None),
        Progress(1, 2, "sampling", 0.5),
        Progress(2, 2, "loading", None),
        Progress(2, 2, "sampling", 0.5),
    ]


def test_each_process_has_arrivals_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Scenario] = []

    def worker(job: Job, silence: float, follow: Any, way: Any) -> Answer:
        seen.append(job.scenario)
        return answer(conditions=replace(answer().conditions, scenario=job.scenario))

    monkeypatch.setattr(run, "run_worker", worker)
    made = bench("net.edge", BenchOptions(scenario=Scenario("server", rate=10.0, seed=3)))
    assert made.conditions.scenario == seen[0] == Scenario("server", rate=10.0, seed=3)
    arrivals = [tuple(islice(scenario.due(), 20)) for scenario in seen]
    assert len(set(arrivals)) == 3
    bench("net.edge", BenchOptions(scenario=Scenario("paced", rate=10.0)))
    assert len(set(seen[3:])) == 1


def run_with(monkeypatch: pytest.MonkeyPatch, options: BenchOptions, *medians: float) -> tuple[Measurement, list[Job]]:
    """The measurement of workers whose passes take about so many milliseconds, the last one again and again."""
    jobs: list[Job] = []

    def worker(job: Job, silence: float, follow: Any, way: Any) -> Answer:
        ms = medians[min(len(jobs), len(medians) - 1)]
        times = [int(ms / 20 * time) for time in fake_times(400, len(jobs), 0.01, 0.0)]
        jobs.append(job)
        telemetry = replace(fake_process([1]).telemetry, wall=0.4)
        return answer(process=fake_process(times, telemetry=telemetry))

    monkeypatch.setattr(run, "run_worker", worker)
    return bench("net.edge", options), jobs


def test_more_processes_are_started_until_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    made, jobs = run_with(monkeypatch, BenchOptions(precision=0.02, duration=60.0), 20, 20.6, 20)
    assert 3 < len(made.processes) < MOST
    assert jobs[0].precision == pytest.approx(0.02 * 3**0.5)
    low, high = made.interval()  # type: ignore[misc]
    assert high - low <= 0.02 * (high + low)
    stop = stopped(made)
    assert stop is not None
    assert stop.reached
    assert stop.processes == len(made.processes)
    assert f"after {stop.processes} processes, where 2.00% was asked for" in stop.why
    assert Measurement.from_json(made.to_json(), "here") == made


def test_a_precision_that_is_there_at_once_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = run_with(monkeypatch, BenchOptions(precision=0.02, duration=60.0), 20)
    assert len(made.processes) == 3


def test_a_precision_that_is_out_of_reach_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = run_with(monkeypatch, BenchOptions(precision=0.001, duration=2.0), 20, 24)
    assert len(made.processes) == 5  # 0.4 s each
    stop = stopped(made)
    assert stop is not None
    assert not stop.reached
    assert "the time was over (2.00 s of sampling)" in stop.why
    assert any(one.startswith("The goal was not reached: p50 within ") for one in doubts(made))


def test_processes_are_started_until_the_last_ones_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = run_with(monkeypatch, BenchOptions(until_stable=3600.0), 30, 26, 23, 20.5, 20)
    assert len(made.processes) == 6
    stop = stopped(made)
    assert stop is not None
    assert stop.reached
    assert stop.why.startswith("the medians of the last 3 of 6 processes are ")
    assert made.conditions.duration == pytest.approx(6 * 10.0 / 3)  # what each was asked for can be told from it


def test_no_more_processes_than_make_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = run_with(monkeypatch, BenchOptions(until_stable=3600.0), *(20 + 10 * (i % 2) for i in range(99)))
    assert len(made.processes) == MOST
    (goal, *_) = (one for one in doubts(made) if "goal" in one)
    assert "no more are started" in goal


def test_without_a_goal_nothing_is_kept_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, jobs = run_with(monkeypatch, BenchOptions(), 20, 26)
    assert len(made.processes) == 3
    assert stopped(made) is None
    assert jobs[0].precision is None


def test_a_change_of_the_environment_is_kept_though_it_changed_back() -> None:
    hot = fake_environment(governor="powersave")
    made = assemble([answer(), answer(before=hot), answer()], "now", 1.0)
    assert made.environment == fake_environment()
    assert made.environment_after == hot
    quiet = assemble([answer(), answer(after=fake_environment(load_average=(2.0, 2.0, 2.0)))], "now", 1.0)
    assert quiet.environment_after.load_average == (2.0, 2.0, 2.0)


def test_a_bundle_that_changed_in_between_is_no_measurement() -> None:
    other = replace(answer().conditions, digest="e" * 64)
    with pytest.raises(RunFailed, match="net was changed while it was measured"):
        assemble([answer(), answer(conditions=other)], "now", 1.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threads": 0}, "threads 0"),
        ({"batch": 0}, "batch 0"),
        ({"processes": -1}, "processes -1"),
        ({"duration": 0.0}, "duration of 0"),
        ({"duration": float("nan")}, "duration of nan"),
        ({"silence": float("inf")}, "silence of inf"),
        ({"size": (0, 640)}, "0x640"),
        ({"precision": 0.0}, "precision of 0"),
        ({"precision": 2.0}, "precision of 2"),
        ({"until_stable": -1.0}, "time to become stable of -1"),
    ],
)
def test_requests_that_cannot_be_right(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        BenchOptions(**wrong)


def test_from_the_front_door_to_a_measurement() -> None:
    options = BenchOptions(loader="edgedeploy.testing:load_fake", processes=2, duration=0.04, backend="fake")
    made = bench("net.edge", options)
    assert len(made.processes) == 2
    assert made.count >= 14
    assert made.latency > 0
    assert all(process.start > 0 for process in made.processes)
