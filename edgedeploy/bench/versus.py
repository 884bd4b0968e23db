"""A or B? Two artifacts in one run, their passes taken in turn on the device; what comes out is a ratio."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.bench.doubts import circumstances
from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import END_TO_END, PARTS, Measurement, Part, Place
from edgedeploy.bench.pair import MODULE, Pair, joined
from edgedeploy.bench.remote.transport import Broken, Local
from edgedeploy.bench.run import BenchOptions, Progress, Where, assemble, job_of
from edgedeploy.bench.spawn import Call, Follow, converse
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.statistics.ratio import Ratio, compare_pairs
from edgedeploy.bench.statistics.uncertainty import Times
from edgedeploy.bench.target import Job, Option
from edgedeploy.errors import UsageError
from edgedeploy.records import from_json, to_json

#: What of an environment belongs to the backend: it differs where the backends do.
OF_BACKEND = ("runtime", "packages", "image_engine")
#: What of the conditions belongs to the graph: it differs where two graphs of one artifact are compared.
OF_GRAPH = ("graph", "inputs", "frames")
#: Pairs of processes where nobody says how many: the interval of the ratio widens fast with fewer.
PAIRS = 5


@dataclass(frozen=True)
class Contestant:
    """A bundle, and what is special to it: runtime, options and graph that replace those of both."""

    path: str | Path
    backend: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    graph: str | None = None


@dataclass(frozen=True)
class Versus:
    """Two artifacts measured in turn.

    Args:
        first: what the passes of the first were; ``second`` those of the second. Their processes belong together,
            one by one.
        blocks: per pair of processes, how many passes in a row each side made.
    """

    first: Measurement
    second: Measurement
    blocks: tuple[tuple[int, int], ...]

    def ratio(self, q: float = 0.5, part: Part = END_TO_END, confidence: float = 0.95) -> Ratio | TooFew:
        """The second over the first: above 1 where the second is slower."""
        pairs = [
            (_blocks(a.samples.seconds(part), sizes[0]), _blocks(b.samples.seconds(part), sizes[1]))
            for a, b, sizes in zip(self.first.processes, self.second.processes, self.blocks, strict=True)
        ]
        return compare_pairs(pairs, q, confidence)

    @property
    def parts(self) -> dict[Part, Ratio | TooFew]:
        """The ratio of the medians of each part, and of end-to-end."""
        return {part: self.ratio(part=part) for part in (*PARTS, END_TO_END)}

    def differences(self) -> tuple[str, ...]:
        """Each condition in which the second differs from the first, as ``key: first -> second``.

        What a session computes in is none, where two models are compared: it is what the models differ in. Nor is what
        two graphs of one artifact take.
        """
        sides = [side.comparable() for side in (self.first, self.second)]
        if self.first.conditions.digest != self.second.conditions.digest:
            sides = [{**side, "facts": _but(side["facts"], "computes_in")} for side in sides]
        elif self.first.conditions.graph != self.second.conditions.graph:
            sides = [{key: value for key, value in side.items() if key not in OF_GRAPH} for side in sides]
        return changes(*sides)

    def doubts(self) -> tuple[str, ...]:
        """Reasons not to trust the ratio. What slows both alike for a while is none: it drops out."""
        found = []
        backends = self.first.conditions.backend != self.second.conditions.backend
        before, after = self.first.environment.conditions(), self.second.environment.conditions()
        machine = changes(
            *({k: v for k, v in c.items() if k not in OF_BACKEND or not backends} for c in (before, after))
        )
        if machine:
            found.append(f"The environment was not the same for both ({'; '.join(machine)}).")
        told = {change.partition(":")[0] for change in machine}
        other = [text for text in self.differences() if text.partition(":")[0] not in told]
        if other:
            found.append(f"Conditions differ, so that more than the model is compared ({'; '.join(other)}).")
        alike = self.first.conditions.subject == self.second.conditions.subject
        names = ("first", "second") if alike else (self.first.conditions.subject, self.second.conditions.subject)
        said = [circumstances(side) for side in (self.first, self.second)]
        found += [sentence for sentence in said[0] if sentence in said[1]]
        for name, mine, others in zip(names, said, said[::-1], strict=True):
            found += [f"Of {name}: {sentence}" for sentence in mine if sentence not in others]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of all of it."""
        plain: dict[str, Any] = to_json(self)
        return plain

    @classmethod
    def from_json(cls, data: object, where: str) -> Versus:
        """The comparison that ``data`` describes; ``where`` names the file in messages.

        Raises:
            UsageError: not one, or damaged.
        """
        return from_json(cls, data, where)


def versus(
    first: str | Path | Contestant,
    second: str | Path | Contestant,
    options: BenchOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    where: Where | None = None,
) -> Versus:
    """Measure two bundles in turn, ``where`` they are to run (this machine where ``None``).

    Each of ``options.processes`` pairs of processes gets an equal part of the duration, which is that of both together.
    Which one is loaded first changes from pair to pair.

    Raises:
        UsageError: the options ask for what turns cannot give.
        RunFailed: a worker died, or was silent for too long; with its last words.
        EdgeDeployError: what the loader, the runtime or the task refused.
    """
    options, where = options or BenchOptions(processes=PAIRS), where or Where(Local())
    if options.scenario.name != "single-stream" or options.scenario.engine != "edgedeploy":
        raise UsageError(f"Two artifacts take turns query by query, and not as '{options.scenario.name}'.")
    if options.precision is not None or options.until_stable is not None:
        raise UsageError("Two artifacts take turns for a fixed duration: leave out --precision and --until-stable.")
    jobs = [_job(one, options, where) for one in (first, second)]
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    pairs = []
    for number in range(1, options.processes + 1):

        def follow(phase: str, share: float | None, number: int = number) -> None:
            if progress is not None:
                progress(Progress(number, options.processes, phase, share))

        turned = number % 2 == 0
        one, other = jobs[::-1] if turned else jobs
        asked = joined(one, other, options.duration / options.processes)
        found = _converse(asked, options.silence, follow, where)
        if turned:
            found = replace(found, first=found.second, second=found.first, blocks=found.blocks[::-1])
        pairs.append(found)
    sides = ([pair.first for pair in pairs], [pair.second for pair in pairs])
    a, b = (_in_turn(assemble(side, created, options.duration), where.place) for side in sides)
    return Versus(a, b, tuple(pair.blocks for pair in pairs))


def _but(facts: Any, key: str) -> dict[str, object]:
    return {name: value for name, value in facts.items() if name != key}


def _in_turn(measurement: Measurement, place: Place) -> Measurement:
    return replace(measurement, place=place, conditions=replace(measurement.conditions, in_turn=True))


def _job(one: str | Path | Contestant, options: BenchOptions, where: Where) -> Job:
    """Of one side; its warm-up may take as long as its own share of the sampling."""
    contestant = one if isinstance(one, Contestant) else Contestant(one)
    own = replace(
        options,
        backend=contestant.backend or options.backend,
        options={**options.options, **contestant.options},
        graph=contestant.graph or options.graph,
        duration=options.duration / 2,
    )
    return job_of(contestant.path, own, where.way)


def _converse(job: Job, silence: float, follow: Follow, where: Where) -> Pair:
    """See `edgedeploy.bench.spawn.run_worker`."""
    while True:
        try:
            return converse(Call(job, MODULE, Pair), silence, follow, where.way)[0]
        except Broken as reason:
            follow("connecting again", None)
            where.way.restore(reason)


def _blocks(times: Times, size: int) -> Sequence[Times]:
    return np.split(times[: len(times) // size * size], len(times) // size)
