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

from edgedeploy.bench import loadgen
from edgedeploy.bench.drive import Limits, Sleep, drive
from edgedeploy.bench.environment import Environment, collect, imported_packages
from edgedeploy.bench.measurement import PARTS, WAIT, Conditions, Process
from edgedeploy.bench.sampling import LIMIT, QuerySteps, Recorder, warm_up
from edgedeploy.bench.sensors.watch import Watch
from edgedeploy.bench.stopping import precise
from edgedeploy.bench.streaming import steps_of
from edgedeploy.bench.target import Job, Target, load, split
from edgedeploy.bench.telemetry import (
    Clock,
    Telemetry,
    between,
    energy_per_pass,
    peak_memory,
    read_counters,
    resident_memory,
    resolution,
    restart_peak,
)
from edgedeploy.errors import EdgeDeployError, Unavailable
from edgedeploy.records import from_json, to_json
from edgedeploy.runtime import Session
from edgedeploy.tensors import Array

#: Seconds that the warm-up of a sustained run may take.
SHORT = 10.0

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
class Timer:
    """What tells the time, and lets it pass."""

    clock: Clock
    sleep: Sleep


@dataclass(frozen=True)
class Opened:
    """A session, and what it took to open it: seconds, and bytes resident before."""

    session: Session
    version: str
    runtime_import: float
    load: float
    memory_before: int | None


def measure(job: Job, tell: Tell, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep) -> Answer:
    """Load the job's target and measure it in this process.

    Raises:
        EdgeDeployError: the target cannot be loaded, opened or run, or the engine of its scenario is not here.
    """
    if job.scenario.engine == "loadgen":
        loadgen.library()
    tell("phase", {"phase": "reading the bundle"})
    target = load(job)
    opened = open_target(target, tell, clock)
    try:
        return _measure_session(job, target, opened, tell, Timer(clock, sleep))
    finally:
        opened.session.close()


def open_target(target: Target, tell: Tell, clock: Clock = time.perf_counter_ns) -> Opened:
    """A session of the target, and what it took.

    Raises:
        Unavailable: what opens only stands in for the device.
        EdgeDeployError: the runtime is not here, or refused.
    """
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


def _measure_session(job: Job, target: Target, opened: Opened, tell: Tell, timer: Timer) -> Answer:
    batch, passes = split(job, target.signature, target.name)
    one = steps_of(target, opened.session, batch)
    steps = one if passes == 1 else QuerySteps(one, passes)
    tell("phase", {"phase": "running the first inference"})
    recorder = Recorder(steps, timer.clock)
    recorder.run(0.0, 1)
    packages = imported_packages()
    before = collect(opened.version, packages, target.image_engine)
    tell("phase", {"phase": "warming up"})
    steady = warm_up(recorder, _longest_warm_up(job), lambda share: tell("progress", {"share": None}))
    warm = recorder.count
    telemetry = _sample(job, recorder, opened.memory_before, tell, timer)
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
    conditions = conditions_of(replace(job, batch=batch), target, one.prepare(0).inputs)
    if process.samples.wait:
        conditions = replace(conditions, includes=(WAIT, *PARTS))
    return Answer(conditions, before, after, process)


def _longest_warm_up(job: Job) -> float:
    """As long as the sampling, but where the device is to be seen getting hot."""
    return min(SHORT, job.duration) if job.scenario.name == "sustained" else job.duration


def _sample(job: Job, recorder: Recorder, memory_before: int | None, tell: Tell, timer: Timer) -> Telemetry:
    """Take the samples that count.

    The garbage collector stays on: its pauses are part of what a Python program pays. What exists by now is frozen, so
    that a collection walks what the passes leave behind and not everything that the harness has imported.
    """
    recorder.reserve(min(LIMIT, max(job.minimum, int(1.5 * job.duration / recorder.typical()))))
    step = resolution(timer.clock)
    tell("phase", {"phase": "sampling"})
    gc.collect()
    gc.freeze()
    enough = None if job.precision is None else functools.partial(precise, precision=job.precision)
    limits = Limits(job.duration, job.minimum, enough)

    def report(share: float) -> None:
        tell("progress", {"share": share})

    begun = recorder.count
    try:
        with Watch(job.watch) as watch:
            counters = read_counters()
            driven = drive(job.scenario, recorder, limits, report, timer.sleep)
            found = between(counters, read_counters(), step, (memory_before, peak_memory()))
        readings = (*found.readings, *watch.readings(), *driven.readings)
        found = replace(found, wall=driven.wall, readings=readings, series=watch.series())
        inferences = (recorder.count - begun) * job.batch
        return replace(found, readings=(*readings, energy_per_pass(found, inferences)))
    finally:
        gc.unfreeze()


def conditions_of(job: Job, target: Target, inputs: Mapping[str, Array]) -> Conditions:
    """What was asked for and what was run; ``inputs`` are those of a pass."""
    largest = max((_shape(sample) for sample in target.samples), key=lambda shape: int(np.prod(shape)))
    return Conditions(
        name=target.name,
        digest=target.digest,
        model_size=target.model_size,
        backend=target.backend,
        options=dict(job.options),
        threads=job.threads,
        graph=target.graph,
        batch=job.batch,
        inputs={name: tuple(tensor.shape) for name, tensor in inputs.items()},
        sample_count=len(target.samples),
        sample_shape=largest,
        includes=PARTS,
        duration=job.duration,
        scenario=job.scenario,
        frames=target.frames,
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
    return serve(measure)


def serve(work: Callable[[Job, Tell], object], listening: bool = False) -> int:
    """Read a job from standard input, do ``work`` and answer with the record that it returns; the exit status.

    Unless ``work`` is ``listening``, and reads on by itself, the process ends when standard input does.
    """
    channel = _private_output()

    def tell(event: str, fields: dict[str, Any]) -> None:
        channel.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        channel.flush()

    channel.write("\n")  # ends whatever the interpreter's start has printed
    try:
        job = from_json(Job, json.loads(read_line()), "job")
        if not listening:
            _end_with_parent()
        tell("phase", {"phase": "ready"})
        answer = work(job, tell)
    except EdgeDeployError as error:
        tell("error", {"kind": type(error).__name__, "message": str(error)})
        return error.exit_status
    tell("result", {"answer": to_json(answer)})
    return 0


def read_line() -> bytes:
    """Standard input up to the next line end, unbuffered: others read the same descriptor. Empty at its end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
