"""The profiling worker, ``python -m edgedeploy.bench.profile``: a `Job` in, an `Answer` out, as with the other one.

Passes without the profiler are timed before and after it, in a session of their own: with it on, they are slower.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.bench.streaming import steps_of
from edgedeploy.bench.target import Job, load
from edgedeploy.bench.worker import Tell, open_target, serve
from edgedeploy.errors import Unavailable
from edgedeploy.runtime import Profile, timed_passes


@dataclass(frozen=True)
class Answer:
    """What one worker gives back.

    Args:
        name: of what was profiled.
        backend: name of the runtime.
        version: of the runtime.
        facts: of the session.
        inputs: shapes of the tensors of a pass.
        seconds: median of a pass of the graph without the profiler, before or after it: the lower of the two.
        passes: that were timed for it.
        profile: where the time goes, with it.
    """

    name: str
    backend: str
    version: str
    facts: Mapping[str, str | int | float]
    inputs: Mapping[str, tuple[int, ...]]
    seconds: float
    passes: int
    profile: Profile


def profile(job: Job, tell: Tell) -> Answer:
    """Load the job's target, time it, and profile it, in this process.

    Raises:
        Unavailable: its runtime has no profiler that can be read.
        EdgeDeployError: the target cannot be loaded, opened or run.
    """
    tell("phase", {"phase": "reading the bundle"})
    target = load(job)
    if target.profile is None:
        raise Unavailable(f"{target.name} has no profiler that tells the time of each node.")
    opened = open_target(target, tell)
    try:
        facts = dict(opened.session.facts)
        steps = steps_of(target, opened.session, job.batch)
        ready = steps.prepare(0)
        tell("phase", {"phase": "timing passes without the profiler"})
        before = timed_passes(lambda: steps.compute(ready))
        tell("phase", {"phase": "profiling"})
        found = target.profile(ready.inputs, target.graph)
        tell("phase", {"phase": "timing passes without the profiler again"})
        after = timed_passes(lambda: steps.compute(ready))
    finally:
        opened.session.close()
    return Answer(
        name=target.name,
        backend=target.backend,
        version=opened.version,
        facts=facts,
        inputs={name: tuple(tensor.shape) for name, tensor in ready.inputs.items()},
        seconds=min(map(statistics.median, (before, after))),
        passes=len(before) + len(after),
        profile=found,
    )


if __name__ == "__main__":
    sys.exit(serve(profile))
