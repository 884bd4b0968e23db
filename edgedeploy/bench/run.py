"""The front door of the harness: one bundle, a few worker processes one after the other, one measurement."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import HERE, SCHEMA, Measurement, Place
from edgedeploy.bench.quantiles import needed
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.target import Job, Option
from edgedeploy.bench.transport import Local, Transport
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
        graph: name of the graph to run.
        samples: folder or file with real samples; ``None`` takes those of the bundle.
        silence: seconds without a sign of life after which a worker is killed.
        loader: ``module:function`` that makes a `Target` of a `Job`.
        scenario: how queries arrive.
        precision: stop once the intervals of p50 and p90 reach at most this share to either side; ``duration`` is then
            the longest that sampling may take.
        watch: seconds between two readings of sensors; 0 reads none.
    """

    backend: str | None = None
    threads: int | None = None
    batch: int = 1
    size: tuple[int, int] | None = None
    duration: float = 10.0
    processes: int = 3
    options: Mapping[str, Option] = field(default_factory=dict)
    graph: str = "main"
    samples: str | None = None
    silence: float = 300.0
    loader: str = "edgedeploy.bench.bundle:load"
    scenario: Scenario = SINGLE_STREAM
    precision: float | None = None
    watch: float = 1.0

    def __post_init__(self) -> None:
        counts = {"threads": self.threads, "batch": self.batch, "processes": self.processes}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"A benchmark cannot have {name} {count}; give 1 or more.")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"A benchmark cannot run at {self.size[0]}x{self.size[1]}; give a height and a width.")
        for name, seconds in {"duration": self.duration, "silence": self.silence}.items():
            if not (math.isfinite(seconds) and seconds > 0):
                raise UsageError(f"A benchmark cannot have a {name} of {seconds} s; give more than zero.")


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
    lasts.

    Raises:
        RunFailed: a worker died, or was silent for too long; with its last words.
        EdgeDeployError: what the loader, the runtime or the task refused.
    """
    options, where = options or BenchOptions(), where or Where(Local())
    job = Job(
        loader=options.loader,
        path=where.way.deliver(str(path)),
        backend=options.backend,
        options=options.options,
        threads=options.threads,
        graph=options.graph,
        batch=options.batch,
        size=options.size,
        samples=None if options.samples is None else where.way.deliver(options.samples),
        duration=options.duration / options.processes,
        minimum=needed(0.5),
        scenario=options.scenario,
        precision=options.precision,
        watch=options.watch,
    )
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    answers = []
    for number in range(1, options.processes + 1):

        def follow(phase: str, share: float | None, number: int = number) -> None:
            if progress is not None:
                progress(Progress(number, options.processes, phase, share))

        answers.append(run_worker(job, options.silence, follow, where.way))
    return replace(assemble(answers, created, options.duration), place=where.place)


def assemble(answers: list[Answer], created: str, duration: float) -> Measurement:
    """One measurement of what the workers answered.

    Raises:
        RunFailed: they did not measure the same thing.
    """
    conditions = replace(answers[0].conditions, duration=duration)
    for answer in answers:
        if replace(answer.conditions, duration=duration) != conditions:
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
