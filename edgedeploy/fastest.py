"""Of several artifacts of one model, the fastest that keeps the accuracy: judged on the same images, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from edgedeploy.artifact import Artifact
from edgedeploy.bench.interleave import interleave
from edgedeploy.errors import EdgeDeployError, Unavailable
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Task

Outcome = Literal["chosen", "slower", "loses too much", "failed"]
#: Seconds that the timing of all candidates together takes, for each of them.
DURATION = 3.0


@dataclass(frozen=True)
class Candidate:
    """One artifact that was tried.

    Args:
        name: backend and precision.
        outcome: what became of it.
        reason: why it failed or lost; empty for the rest.
        path: the bundle, where there is one.
        loss: what it loses: of the task metric on labelled images, or how far golden results move (0 to 1).
        seconds: median of a call; ``None`` where it was not timed.
        slower: that median over the chosen one's.
        computes_in: the precision that its runtime says it really uses.
    """

    name: str
    outcome: Outcome
    reason: str = ""
    path: str | None = None
    loss: float | None = None
    seconds: float | None = None
    slower: float | None = None
    computes_in: str = ""


@dataclass(frozen=True)
class Judge:
    """What an artifact may lose. ``loss`` measures it of an open session; ``what`` says of what it is a loss."""

    loss: Callable[[Artifact, Session], float]
    allowed: float
    what: str


def golden_distance(artifact: Artifact, session: Session) -> float:
    """How far the results on the golden samples moved at export, 0 to 1; for models without labelled images."""
    return max((golden.distance or 0.0 for golden in artifact.manifest.golden), default=0.0)


def rank(
    made: Mapping[str, Artifact | str],
    judge: Judge,
    threads: int | None = None,
    duration: float = DURATION,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Candidate, ...]:
    """Every candidate with what became of it, the chosen one first, then by time.

    Args:
        made: by name, the artifacts, or the sentence why there is none.
        judge: what may be lost.
        threads: of every session; the runtime's default where ``None``.
        duration: seconds of timing per candidate.
        say: told what is going on.

    Raises:
        Unavailable: no candidate is left.
    """
    lost: list[Candidate] = []
    sessions: dict[str, Session] = {}
    left: dict[str, Candidate] = {}
    for name, artifact in made.items():
        say(f"judging {name}")
        if isinstance(artifact, str):
            lost.append(Candidate(name, "failed", artifact))
            continue
        try:
            session = _opened(artifact, threads)
            loss = judge.loss(artifact, session)
        except EdgeDeployError as error:
            lost.append(Candidate(name, "failed", str(error), str(artifact.path)))
            continue
        used = str(session.facts.get("computes_in", ""))
        if loss > judge.allowed:
            reason = f"{judge.what}: {loss:.4f}, allowed is {judge.allowed:g}"
            lost.append(Candidate(name, "loses too much", reason, str(artifact.path), loss, computes_in=used))
            session.close()
            continue
        sessions[name] = session
        left[name] = Candidate(name, "slower", "", str(artifact.path), loss, computes_in=used)
    if not left:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in lost)
        raise Unavailable(f"No backend here keeps the accuracy. {reasons}")
    say(f"timing {', '.join(left)} in turn")
    artifacts = {name: artifact for name in left if not isinstance(artifact := made[name], str)}
    medians = _medians(artifacts, sessions, duration * len(left))
    best = min(medians, key=lambda name: medians[name])
    timed = [
        _timed(left[name], medians[name], medians[best], chosen=name == best)
        for name in sorted(medians, key=lambda name: medians[name])
    ]
    return (*timed, *lost)


def _timed(one: Candidate, seconds: float, best: float, chosen: bool) -> Candidate:
    outcome: Outcome = "chosen" if chosen else "slower"
    return Candidate(one.name, outcome, "", one.path, one.loss, seconds, seconds / best, one.computes_in)


def _opened(artifact: Artifact, threads: int | None) -> Session:
    session = open_artifact_here(artifact, threads)
    if "emulated" in session.facts:
        reason = str(session.facts["emulated"])
        session.close()
        raise Unavailable(f"It runs here only as emulated by: {reason}.")
    return session


def _medians(artifacts: Mapping[str, Artifact], sessions: Mapping[str, Session], duration: float) -> dict[str, float]:
    calls = {name: _call(artifacts[name], session) for name, session in sessions.items()}
    try:
        samples = interleave(calls, duration)
    finally:
        for session in sessions.values():
            session.close()
    return {name: float(np.median(values)) for name, values in samples.items()}


def _call(artifact: Artifact, session: Session) -> Callable[[], object]:
    contract = artifact.manifest.task
    task: Task[Any] = Raw() if contract is None else from_contract(contract)
    prepared = task.prepare(artifact.sample(artifact.manifest.golden[0]))  # type: ignore[arg-type]
    return partial(session.run, inputs_of(artifact.signatures["main"], prepared.tensors))


def candidates_of(backends: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Every backend with every one of ``precisions`` that its exporter has."""
    from edgedeploy import plugins

    found = []
    for backend in backends:
        known = plugins.find(plugins.EXPORTERS, backend).precisions
        found += [(backend, precision) for precision in precisions if precision in known]
    return found
