"""The front door, over fake workers and real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.bench import run
from edgedeploy.bench.run import BenchOptions, Progress, assemble, bench
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Answer
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.testing import fake_environment, fake_measurement


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
