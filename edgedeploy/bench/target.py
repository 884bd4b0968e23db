"""What is measured, and the request for it: a `Job` crosses to the worker, and a loader there makes a `Target` of it.

The loader is named in the job as ``module:function``, so that the harness knows nothing of artifacts: an artifact's
loader, a fake one of the tests, and a later one for something else are the same to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedeploy.bench.frames import Frames
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Profile, Session
from edgedeploy.tasks.task import Task
from edgedeploy.tensors import Array, Signature

Option = str | int | float | bool


@dataclass(frozen=True)
class Job:
    """One worker's work.

    Args:
        loader: ``module:function`` of a function ``(Job) -> Target``.
        path: the bundle.
        backend: name of the runtime; ``None`` leaves it to the bundle.
        options: options of the runtime.
        threads: threads inside one call; ``None`` is the runtime's default.
        graph: name of the graph to run; ``None``: that of streams where there is one, else ``main``.
        batch: samples per pass.
        size: height and width to run at; ``None`` is what the bundle says.
        samples: folder or file with real samples; ``None`` takes those of the bundle.
        duration: seconds of sampling; the warm-up may take as long again.
        minimum: samples that are taken even if that takes longer.
        scenario: how queries arrive.
        precision: sampling ends before ``duration`` once the interval of the median (and of p90) is at most this share
            of it wide on either side; ``None`` is never.
        watch: seconds between two readings of sensors; 0 reads none.
    """

    loader: str
    path: str
    backend: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    threads: int | None = None
    graph: str | None = None
    batch: int = 1
    size: tuple[int, int] | None = None
    samples: str | None = None
    duration: float = 10.0
    minimum: int = 7
    scenario: Scenario = SINGLE_STREAM
    precision: float | None = None
    watch: float = 1.0


@dataclass(frozen=True)
class Target:
    """Something to measure, nothing of it loaded yet.

    Args:
        name: what reports call it.
        digest: identifies what runs; earlier measurements are compared where it is equal.
        backend: entry-point name of the runtime.
        model_size: bytes on disk of what the session loads.
        signature: of the graph that is run.
        task: prepares a sample and finishes outputs.
        samples: real samples, decoded and in memory; at least one.
        load_runtime: imports the vendor's library and gives its version.
        open: opens the session, with the job's threads and options.
        image_engine: the library that the task resizes images with.
        profile: where the time of a pass of a graph goes, node by node; see `edgedeploy.runtime.Runtime.profile`.
        graph: name of the graph that is run.
        frames: what a pass is where the graph takes a stream; ``None`` where it takes samples one by one.
    """

    name: str
    digest: str
    backend: str
    model_size: int | None
    signature: Signature
    task: Task[Any]
    samples: tuple[Any, ...]
    load_runtime: Callable[[], str]
    open: Callable[[], Session]
    image_engine: str | None = None
    profile: Callable[[Mapping[str, Array], str], Profile] | None = None
    graph: str = "main"
    frames: Frames | None = None


def load(job: Job) -> Target:
    """The target that the job's loader makes of it.

    Raises:
        UsageError: the loader is not there, it found no samples, or they cannot come as the scenario says.
    """
    module, _, name = job.loader.partition(":")
    try:
        loader: Callable[[Job], Target] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"The loader '{job.loader}' cannot be used: {error}.") from error
    target = loader(job)
    if not target.samples:
        where = "" if job.samples is None else f" in {job.samples}"
        raise UsageError(f"{target.name} has no samples to run on{where}; give a folder of real ones.")
    _check(job, target)
    return target


def split(job: Job, signature: Signature, name: str) -> tuple[int, int]:
    """Samples of one pass, and passes of one query.

    A query of multi-stream is one pass where the graph takes its samples as one batch, else several. ``job.batch``,
    where it is more than one, is the batch that is asked for.

    Raises:
        UsageError: the samples of a query are no whole number of batches.
    """
    samples = job.scenario.samples_per_query
    if job.scenario.name != "multi-stream":
        return job.batch, 1
    fixed = {int(spec.shape[0]) for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)}
    batch = max(fixed, default=samples)
    if not fixed and (job.batch > 1 or signature.state):  # samples that follow one another are no batch
        batch = job.batch
    if samples % batch:
        raise UsageError(
            f"A query of {samples} samples is no whole number of batches of {batch}, which {name} is run with; "
            f"give a multiple of {batch}."
        )
    return batch, samples // batch


def _check(job: Job, target: Target) -> None:
    scenario, state = job.scenario, bool(target.signature.state)
    split(job, target.signature, target.name)
    if target.frames is not None and scenario.name in ("server", "multi-stream"):
        raise UsageError(
            f"{target.name} takes the frames of one stream, which come one by one and by its own clock, and not as "
            f"'{scenario.name}': measure it single-stream, paced or sustained."
        )
    if state and scenario.name == "offline":
        raise UsageError(
            f"{target.name} carries state from one sample to the next, and those of 'offline' may be taken in any "
            "order: measure it single-stream, paced or sustained."
        )
    if state and scenario.engine == "loadgen":
        raise UsageError(
            f"{target.name} carries state from one sample to the next, and LoadGen picks them at random: "
            "leave --engine out."
        )
    if scenario.engine == "loadgen" and job.precision is not None:
        raise UsageError("LoadGen runs for all of the duration and cannot stop at a precision: leave one of them out.")
