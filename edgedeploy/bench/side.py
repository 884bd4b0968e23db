"""One of two workers that take turns (`edgedeploy.bench.pair`): it opens one session, and makes passes when told.

Started as ``python -m edgedeploy.bench.side`` with a `Job` as first line on standard input, it tells ``open`` when it
is warm. Each further line is a turn, as ``{"passes": 6, "kept": 5, "origin": 123}``: passes before the last ``kept``
pay for what the other one left in the caches, and stay among the warm-up. A turn of no passes ends it with its answer.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from array import array
from dataclasses import dataclass, replace
from typing import Any

from edgedeploy.bench.environment import collect, imported_packages
from edgedeploy.bench.measurement import PARTS, Passes, Process
from edgedeploy.bench.sampling import Recorder, warm_up
from edgedeploy.bench.sensors.watch import Watch
from edgedeploy.bench.streaming import steps_of
from edgedeploy.bench.target import Job, load
from edgedeploy.bench.telemetry import Clock, between, peak_memory, read_counters, resolution
from edgedeploy.bench.worker import Answer, Opened, Tell, conditions_of, open_target, read_line, serve
from edgedeploy.errors import RunFailed


@dataclass(frozen=True)
class Turn:
    """What to do: so many passes, of which the last ``kept`` count; ``origin`` is the clock's reading that is 0."""

    passes: int
    kept: int
    origin: int

    @classmethod
    def read(cls) -> Turn:
        """The next one from standard input; none is left where that ends.

        Raises:
            RunFailed: the other end is gone.
        """
        line = read_line()
        if not line:
            raise RunFailed("The process that gives the turns is gone.")
        return cls(**json.loads(line))


def measure(job: Job, tell: Tell, clock: Clock = time.perf_counter_ns) -> Answer:
    """Open the job's target, warm it up, and make passes as told.

    Raises:
        EdgeDeployError: the target cannot be loaded, opened or run.
    """
    tell("phase", {"phase": "reading the bundle"})
    target = load(job)
    opened = open_target(target, tell, clock)
    try:
        steps = steps_of(target, opened.session, job.batch)
        recorder = Recorder(steps, clock)
        tell("phase", {"phase": "running the first inference"})
        recorder.run(0.0, 1)
        packages = imported_packages()
        before = collect(opened.version, packages, target.image_engine)
        tell("phase", {"phase": "warming up"})
        steady = warm_up(recorder, job.duration, lambda share: tell("progress", {"share": None}))
        process = replace(_take_turns(job, recorder, opened, tell), steady=steady, facts=dict(opened.session.facts))
        after = collect(opened.version, packages, target.image_engine)
        return Answer(conditions_of(job, target, steps.prepare(0).inputs), before, after, process)
    finally:
        opened.session.close()


def _take_turns(job: Job, recorder: Recorder, opened: Opened, tell: Tell) -> Process:
    warm, step = recorder.count, resolution(recorder.clock)
    counted = array("b", bytes(warm))
    recorder.reserve(int(1.5 * job.duration / recorder.typical()))
    origin = 0
    gc.collect()
    gc.freeze()
    try:
        with Watch(job.watch) as watch:
            tell("open", {"typical": recorder.typical()})
            turn = Turn.read()
            begin, counters = recorder.begin(), read_counters()
            while turn.passes:
                origin = turn.origin
                for number in range(turn.passes):
                    recorder.once()
                    counted.append(number >= turn.passes - turn.kept)
                tell("turn", {"made": turn.passes})
                turn = Turn.read()
            telemetry = between(counters, read_counters(), step, (opened.memory_before, peak_memory()))
    finally:
        gc.unfreeze()
    turns = recorder.passes(warm)
    shifted = replace(turns, began=tuple(at + begin - origin for at in turns.began))
    uncounted = _picked(shifted, counted[warm:], 0)
    return Process(
        start=0.0,
        runtime_import=opened.runtime_import,
        load=opened.load,
        first=recorder.passes(0, 1),
        warmup=_joined(replace(recorder.passes(1, warm), began=()), uncounted),
        steady=True,
        samples=_picked(shifted, counted[warm:], 1),
        telemetry=replace(telemetry, readings=(*telemetry.readings, *watch.readings()), series=watch.series()),
        facts={},
    )


def _picked(passes: Passes, counted: Any, wanted: int) -> Passes:
    columns = {
        name: tuple(value for value, mark in zip(getattr(passes, name), counted, strict=True) if mark == wanted)
        for name in (*PARTS, "began")
    }
    return Passes(**columns)


def _joined(first: Passes, second: Passes) -> Passes:
    """One after the other; when they began is lost, since it is counted from different moments."""
    return Passes(*(getattr(first, name) + getattr(second, name) for name in PARTS))


if __name__ == "__main__":
    sys.exit(serve(measure, listening=True))
