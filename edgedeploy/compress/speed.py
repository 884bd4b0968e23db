"""How fast bundles are beside each other: all of them in one run, in turn, on this machine. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.bench.environment import affinity, collect
from edgedeploy.bench.interleave import interleave, turns
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.statistics.ratio import compare_pairs
from edgedeploy.bench.statistics.uncertainty import Times
from edgedeploy.bench.telemetry import between, read_counters
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.golden import Caller
from edgedeploy.report.compression.records import Speed, Timing
from edgedeploy.runtime import Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.detect import Detect

#: What a timed call is: the network alone, or also the letterbox before it and the suppression behind it.
Scope = Literal["network", "image to boxes"]
INCLUDES: dict[Scope, str] = {
    "network": "the network alone, without resizing the image and without suppression of duplicates",
    "image to boxes": "from a decoded image to its boxes: resizing, the network, suppression of duplicates",
}
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Timed:
    """Speeds by name of rung; of those that could not be timed, the reason."""

    timing: Timing
    speeds: Mapping[str, Speed]
    untimed: Mapping[str, str]


def threads_here() -> tuple[int, ...]:
    """One thread, and one per logical core that this process may use."""
    cores = len(affinity() or ()) or os.cpu_count() or 1
    return tuple(dict.fromkeys((1, cores)))


def device_here() -> str:
    """The processor and the cores of this machine, in words, and its graphics card where there is one."""
    found = collect()
    cores = len(found.affinity or ()) or found.cores
    named = f"{found.cpu or found.board or 'unknown processor'}, {cores} logical core{'s'[: cores != 1]}"
    return ", ".join(filter(None, (named, found.hosted, found.gpu)))


def time_in_turn(
    bundles: Mapping[str, Artifact], reference: str, threads: int, duration: float, scope: Scope = "network"
) -> Timed:
    """Every bundle with its own runtime, on the first of its golden images, in blocks that take turns.

    Args:
        bundles: detectors, by name of rung.
        reference: the name of that whose speed counts as 1.
        threads: of every session, where its runtime lets them be chosen.
        duration: seconds over all bundles; every one makes three rounds at least.
        scope: what a call is.

    Raises:
        UsageError: the reference is not among the bundles, or a bundle is no detector.
        EdgeDeployError: the reference cannot be opened here.
    """
    if reference not in bundles:
        raise UsageError(f"There is no bundle '{reference}' among {', '.join(bundles) or 'none'} to compare with.")
    calls: dict[str, Callable[[], object]] = {}
    untimed: dict[str, str] = {}
    with ExitStack() as stack:
        for name, artifact in bundles.items():
            try:
                session = _opened(artifact, threads)
                stack.callback(session.close)
                calls[name] = _call(artifact, session, scope)
                calls[name]()
            except EdgeDeployError as error:
                calls.pop(name, None)
                if name == reference:
                    raise
                untimed[name] = str(error)
        before = read_counters()
        seconds = interleave(calls, duration)
        load = between(before, read_counters(), 0.0, (None, None))
    timing = Timing(
        threads, reference, device_here(), INCLUDES[scope], duration, CONFIDENCE, foreign=load.foreign, steal=load.steal
    )
    speeds = {name: _speed(threads, times, seconds[reference], name == reference) for name, times in seconds.items()}
    return Timed(timing, speeds, untimed)


def _opened(artifact: Artifact, threads: int) -> Session:
    """A session of the bundle's own runtime: what is rehearsed is not timed."""
    runtime = plugins.find(plugins.RUNTIMES, artifact.manifest.exporter.runtime)(threads=threads)
    session: Session = runtime.open(artifact.files, artifact.signatures)
    return session


def _call(artifact: Artifact, session: Session, scope: Scope) -> Callable[[], object]:
    contract, golden = artifact.manifest.task, artifact.manifest.golden
    task = None if contract is None else from_contract(contract)
    if not isinstance(task, Detect) or not golden:
        raise UsageError(f"{artifact.path} is no detector with golden images, so that it has no frames per second.")
    detect, image, caller = task, artifact.sample(golden[0]), Caller(session, artifact.signatures["main"])
    assert not isinstance(image, tuple)
    prepared = detect.prepare(image)
    if scope == "network":
        return lambda: caller(prepared.tensors)

    def whole() -> object:
        ready = detect.prepare(image)
        return detect.finish(caller(ready.tensors), ready.context)

    return whole


def _speed(threads: int, times: Times, reference: Times, same: bool) -> Speed:
    latency = float(np.median(times))
    if same:
        return Speed(threads, latency, len(times), 1.0, 1.0, 1.0)
    ratio = compare_pairs([(turns(times), turns(reference))], 0.5, CONFIDENCE)
    if isinstance(ratio, TooFew):
        return Speed(threads, latency, len(times))
    return Speed(threads, latency, len(times), ratio.value, ratio.low, ratio.high)
