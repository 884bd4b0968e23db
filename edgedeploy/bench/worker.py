"""The worker: one process that opens one session, measures it and answers in JSON lines.

Started as ``python -m edgedeploy.bench.worker``: a `Job` as one JSON line on standard input, events on standard output,
one per line: ``phase``, ``progress``, and at the end ``result`` or ``error``. Whatever a vendor's library prints to
standard output goes to standard error instead. When standard input closes, the parent is gone and the worker ends.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgedeploy.bench.drive import Limits, drive
from edgedeploy.bench.environment import Environment, collect, imported_packages
from edgedeploy.bench.measurement import PARTS, WAIT, Conditions, Process
from edgedeploy.bench.sampling import LIMIT, BatchSteps, Recorder, warm_up
from edgedeploy.bench.scenario import TIMED
from edgedeploy.bench.stopping import precise
from edgedeploy.bench.target import Job, Target, load
from edgedeploy.bench.telemetry import (
    Clock,
    Telemetry,
    between,
    peak_memory,
    read_counters,
    resident_memory,
    resolution,
    restart_peak,
)
from edgedeploy.bench.watch import Watch
from edgedeploy.errors import EdgeDeployError, Unavailable
from edgedeploy.records import from_json, to_json
from edgedeploy.runtime import Session
from edgedeploy.tensors import Array

#: ``tell(event, fields)`` sends one event to the parent.
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Answer:
    """What one worker gives back. ``process.start`` is 0: only the parent knows when it spawned the worker."""

    conditions: Conditions
    before: Environment
    after: Environment
    process: Process


@dataclass(frozen=True)
class Opened:
    """A session, and what it took to open it: seconds, and bytes resident before."""

    session: Session
    version: str
    runtime_import: float
    load: float
    memory_before: int | None


def measure(job: Job, tell: Tell, clock: Clock = time.perf_counter_ns) -> Answer:
    """Load the job's target and measure it in this process.

    Raises:
        EdgeDeployError: the target cannot be loaded, opened or run.
    """
    tell("phase", {"phase": "reading the bundle"})
    target = load(job)
    opened = _open(target, tell, clock)
    try:
        return _measure_session(job, target, opened, tell, clock)
    finally:
        opened.session.close()


def _open(target: Target, tell: Tell, clock: Clock) -> Opened:
    tell("phase", {"phase": "importing the runtime"})
    t0 = clock()
    version = target.load_runtime()
    t1 = clock()
    memory = resident_memory()
    restart_peak()
    tell("phase", {"phase": "loading"})
    t2 = clock()
    session = target.open()
    t3 = clock()
    if "emulated" in session.facts:
        session.close()
        raise Unavailable(
            f"{target.name} runs here only as emulated by: {session.facts['emulated']}. What that takes says nothing "
            "about the device; run bench there."
        )
    return Opened(session, version, (t1 - t0) / 1e9, (t3 - t2) / 1e9, memory)


def _measure_session(job: Job, target: Target, opened: Opened, tell: Tell, clock: Clock) -> Answer:
    steps = BatchSteps(target, opened.session, job.graph, job.batch)
    tell("phase", {"phase": "running the first inference"})
    recorder = Recorder(steps, clock)
    recorder.run(0.0, 1)
    packages = imported_packages()
    before = collect(opened.version, packages, target.image_engine)
    tell("phase", {"phase": "warming up"})
    steady = warm_up(recorder, job.duration, lambda share: tell("progress", {"share": None}))
    warm = recorder.count
    telemetry = _sample(job, recorder, opened.memory_before, tell, clock)
    process = Process(
        start=0.0,
        runtime_import=opened.runtime_import,
        load=opened.load,
        first=recorder.passes(0, 1),
        warmup=recorder.passes(1, warm),
        steady=steady,
        samples=recorder.passes(warm),
        telemetry=telemetry,
        facts=dict(opened.session.facts),
    )
    after = collect(opened.version, packages, target.image_engine)
    return Answer(_conditions(job, target, steps.prepare(0).inputs), before, after, process)


def _sample(job: Job, recorder: Recorder, memory_before: int | None, tell: Tell, clock: Clock) -> Telemetry:
    """Take the samples that count.

    The garbage collector stays on: its pauses are part of what a Python program pays. What exists by now is frozen, so
    that a collection walks what the passes leave behind and not everything that the harness has imported.
    """
    typical = float(np.median(recorder.passes(recorder.count // 2).seconds()))
    recorder.reserve(min(LIMIT, max(job.minimum, int(1.5 * job.duration / max(typical, 1e-6)))))
    step = resolution(clock)
    tell("phase", {"phase": "sampling"})
    gc.collect()
    gc.freeze()
    enough = None if job.precision is None else functools.partial(precise, precision=job.precision)
    limits = Limits(job.duration, job.minimum, enough)
    try:
        with Watch(job.watch) as watch:
            counters = read_counters()
            drive(job.scenario, recorder, limits, lambda share: tell("progress", {"share": share}))
            found = between(counters, read_counters(), step, (memory_before, peak_memory()))
        return replace(found, readings=watch.readings(), series=watch.series())
    finally:
        gc.unfreeze()


def _conditions(job: Job, target: Target, inputs: Mapping[str, Array]) -> Conditions:
    largest = max((_shape(sample) for sample in target.samples), key=lambda shape: int(np.prod(shape)))
    return Conditions(
        name=target.name,
        digest=target.digest,
        model_size=target.model_size,
        backend=target.backend,
        options=dict(job.options),
        threads=job.threads,
        graph=job.graph,
        batch=job.batch,
        inputs={name: tuple(tensor.shape) for name, tensor in inputs.items()},
        sample_count=len(target.samples),
        sample_shape=largest,
        includes=(WAIT, *PARTS) if job.scenario.name in TIMED else PARTS,
        duration=job.duration,
        scenario=job.scenario,
    )


def _shape(sample: Any) -> tuple[int, ...]:
    """Of an array, or of the first of several."""
    return tuple(int(size) for size in (sample[0] if isinstance(sample, tuple) else sample).shape)


def _private_output() -> io.TextIOWrapper:
    """A stream to where standard output went; from now on everything printed there goes to standard error."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8", newline="\n")


def _end_with_parent() -> None:
    """End this process when standard input reaches its end: nobody is left to read the answer."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Read a job, measure, answer."""
    channel = _private_output()

    def tell(event: str, fields: dict[str, Any]) -> None:
        channel.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        channel.flush()

    channel.write("\n")  # ends whatever the interpreter's start has printed
    try:
        job = from_json(Job, json.loads(_first_line()), "job")
        _end_with_parent()
        tell("phase", {"phase": "ready"})
        answer = measure(job, tell)
    except EdgeDeployError as error:
        tell("error", {"kind": type(error).__name__, "message": str(error)})
        return error.exit_status
    tell("result", {"answer": to_json(answer)})
    return 0


def _first_line() -> bytes:
    """Up to the first line end, unbuffered: the watching thread reads the same descriptor."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
