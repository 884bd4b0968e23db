"""The front door of the harness: one bundle, a few worker processes one after the other, one measurement."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import HERE, SCHEMA, Measurement, Place
from edgedeploy.bench.remote.transport import Local, Transport
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.statistics.quantiles import needed
from edgedeploy.bench.stopping import Goal, decide, share_of
from edgedeploy.bench.target import Job, Option
from edgedeploy.bench.telemetry import Reading
from edgedeploy.bench.worker import Answer
from edgedeploy.errors import RunFailed, UsageError


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    Args:
        backend: runtime to measure with; ``None`` leaves it to the bundle.
        threads: threads inside one call; ``None`` is the runtime's default.
        batch: samples per pass.
        size: height and width to run at; ``None`` is what the bundle says.
        duration: seconds of sampling over all processes. Warm-ups come on top, and take as long again at most.
        processes: workers, one after the other: what differs from start to start (memory layout, which kernels were
            picked) shows only between them.
        options: options of the runtime.
        graph: name of the graph to run; ``None`` is that of streams where the bundle has one, else ``main``.
        samples: folder or file with real samples; ``None`` takes those of the bundle.
        silence: seconds without a sign of life after which a worker is killed.
        loader: ``module:function`` that makes a `Target` of a `Job`.
        scenario: how queries arrive.
        precision: stop once the intervals of p50 and p90 over all processes reach at most this share to either side;
            while they do not, more processes are started, and ``duration`` is the longest that sampling may take.
        until_stable: seconds, everything included, that may pass until the last ``processes`` workers reached a steady
            state and agree; while they do not, more are started. ``None`` is no such goal.
        watch: seconds between two readings of sensors; 0 reads none.
    """

    backend: str | None = None
    threads: int | None = None
    batch: int = 1
    size: tuple[int, int] | None = None
    duration: float = 10.0
    processes: int = 3
    options: Mapping[str, Option] = field(default_factory=dict)
    graph: str | None = None
    samples: str | None = None
    silence: float = 300.0
    loader: str = "edgedeploy.bench.bundle:load"
    scenario: Scenario = SINGLE_STREAM
    precision: float | None = None
    watch: float = 1.0
    until_stable: float | None = None

    def __post_init__(self) -> None:
        counts = {"threads": self.threads, "batch": self.batch, "processes": self.processes}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"A benchmark cannot have {name} {count}; give 1 or more.")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"A benchmark cannot run at {self.size[0]}x{self.size[1]}; give a height and a width.")
        times = {"duration": self.duration, "silence": self.silence, "time to become stable": self.until_stable}
        for name, seconds in times.items():
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise UsageError(f"A benchmark cannot have a {name} of {seconds} s; give more than zero.")
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError(f"A benchmark cannot have a precision of {self.precision:g}; give a share, as 2%.")

    @property
    def goal(self) -> Goal:
        """What the run goes on for."""
        return Goal(self.processes, self.precision, self.duration, self.until_stable)


@dataclass(frozen=True)
class Where:
    """The way to a device, and what it is: that of ``place`` which is not known here is filled in by the caller."""

    way: Transport
    place: Place = HERE


@dataclass(frozen=True)
class Progress:
    """Where a benchmark is: ``process`` (from 1) of ``processes``, its ``phase``, the share of it done where known."""

    process: int
    processes: int
    phase: str
    share: float | None


def bench(
    path: str | Path,
    options: BenchOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    where: Where | None = None,
) -> Measurement:
    """Measure the bundle at ``path``, ``where`` it is to run (this machine where ``None``).

    Each worker gets an equal part of the duration, and takes enough samples for a median of its own however long that
    lasts. With a goal (``precision``, ``until_stable``) there may be more workers than ``processes``; why the run ended
    is kept, see `edgedeploy.bench.stopping.stopped`.

    Raises:
        RunFailed: a worker died, or was silent for too long; with its last words.
        EdgeDeployError: what the loader, the runtime or the task refused.
    """
    options, where = options or BenchOptions(), where or Where(Local())
    job = job_of(path, options, where.way)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    answers: list[Answer] = []
    began, stop = time.monotonic(), None
    while stop is None:
        number = len(answers) + 1

        def follow(phase: str, share: float | None, number: int = number) -> None:
            if progress is not None:
                progress(Progress(number, max(number, options.processes), phase, share))

        own = replace(job, scenario=job.scenario.of_process(number - 1))
        answers.append(run_worker(own, options.silence, follow, where.way))
        stop = decide([answer.process for answer in answers], options.goal, time.monotonic() - began)
    if stop.reached is not None:
        answers[-1] = _with_reading(answers[-1], stop.reading())
    asked = options.duration * len(answers) / options.processes  # each had its part, and there may be more of them
    return replace(assemble(answers, created, asked), place=where.place)


def job_of(path: str | Path, options: BenchOptions, way: Transport) -> Job:
    """What each worker is told; the bundle and the samples are delivered."""
    return Job(
        loader=options.loader,
        path=way.deliver(str(path)),
        backend=options.backend,
        options=options.options,
        threads=options.threads,
        graph=options.graph,
        batch=options.batch,
        size=options.size,
        samples=None if options.samples is None else way.deliver(options.samples),
        duration=options.duration / options.processes,
        minimum=needed(0.5),
        scenario=options.scenario,
        precision=share_of(options.goal),
        watch=options.watch,
    )


def _with_reading(answer: Answer, reading: Reading) -> Answer:
    telemetry = answer.process.telemetry
    kept = replace(telemetry, readings=(*telemetry.readings, reading))
    return replace(answer, process=replace(answer.process, telemetry=kept))


def assemble(answers: list[Answer], created: str, duration: float) -> Measurement:
    """One measurement of what the workers answered.

    Raises:
        RunFailed: they did not measure the same thing.
    """
    conditions = replace(answers[0].conditions, duration=duration)
    for number, answer in enumerate(answers):
        expected = replace(conditions, scenario=conditions.scenario.of_process(number))
        if replace(answer.conditions, duration=duration) != expected:
            raise RunFailed(f"{conditions.name} was changed while it was measured. Measure it again, undisturbed.")
    before = answers[0].before
    seen = [environment for answer in answers for environment in (answer.before, answer.after)]
    differing = [other for other in seen if changes(before.conditions(), other.conditions())]
    return Measurement(
        schema=SCHEMA,
        created=created,
        conditions=conditions,
        environment=before,
        environment_after=differing[0] if differing else seen[-1],
        processes=tuple(answer.process for answer in answers),
    )
