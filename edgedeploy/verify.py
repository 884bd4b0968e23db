"""Is this bundle still what was exported, and does it compute here what it computed there? Rung by rung."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact, Golden
from edgedeploy.compare import agreement, fingerprint, fingerprints_agree
from edgedeploy.device import this_machine, unmet
from edgedeploy.errors import EdgeDeployError, Incompatible, RunFailed, UsageError
from edgedeploy.golden import Ready, streams
from edgedeploy.opening import Opener, described, open_artifact_here
from edgedeploy.runtime import Outputs, Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Task

#: So many dB an output, and its worst channel, may lose against export; above `GOOD_SNR` it is good whatever it was.
SNR_SLACK, CHANNEL_SLACK, GOOD_SNR = 6.0, 12.0, 60.0
#: How much further task results may be from the reference than they were at export.
DISTANCE_SLACK = 0.05


@dataclass(frozen=True)
class Rung:
    """One check: ``files``, ``requires``, ``load``, ``prepare``, ``outputs`` or ``results``; what was seen."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class Verification:
    """All rungs up to the first that broke."""

    path: str
    digest: str
    rungs: tuple[Rung, ...]

    @property
    def passed(self) -> bool:
        """Whether every rung held."""
        return all(rung.passed for rung in self.rungs)


def verify(path: str | Path) -> Verification:
    """Check digests, requirements and golden vectors of a bundle with the runtime of this machine.

    Raises:
        UsageError, Untrusted, Incompatible: the bundle cannot even be opened; the message says which byte is off.
        Unavailable: its runtime is not installed.
    """
    artifact = open_artifact(path)
    Opener.of(artifact).preload()
    rungs = [Rung("files", True, f"{len(artifact.manifest.files)} files are as they were written")]
    session, loaded = _load(artifact)
    required = _requires(artifact, session)
    rungs += [required, loaded] if required.passed else [required]
    if session is not None:
        if required.passed:
            rungs += _golden_rungs(artifact, session)
        session.close()
    return Verification(str(path), artifact.digest, tuple(rungs))


def _requires(artifact: Artifact, session: Session | None) -> Rung:
    """What the bundle needs. Where it is emulated, this is not the machine that has to have it."""
    found = unmet(artifact.manifest.requires, this_machine())
    needs = ", ".join(artifact.manifest.requires) or "nothing in particular"
    if session is not None and "emulated" in session.facts:
        return Rung("requires", True, f"needs {needs}; not asked of this machine, which emulates it")
    seen = " ".join(map(str, found)) if found else f"needs {needs}"
    return Rung("requires", not any(reason.known for reason in found), seen)


def _load(artifact: Artifact) -> tuple[Session | None, Rung]:
    try:
        session = open_artifact_here(artifact)
    except (Incompatible, RunFailed) as error:
        return None, Rung("load", False, str(error))
    return session, Rung("load", True, f"{described(session)} took the graphs")


def _golden_rungs(artifact: Artifact, session: Session) -> list[Rung]:
    """The three rungs over all golden vectors, each named by its worst case; later ones only if earlier ones held."""
    task: Task[Any] = from_contract(artifact.manifest.task) if artifact.manifest.task is not None else Raw()
    golden = artifact.manifest.golden
    _check_golden(artifact, task)
    ready = [Ready.of(task, g.graph, artifact.signatures[g.graph], artifact.sample(g)) for g in golden]
    rungs = [_prepare(golden, ready)]
    if not rungs[-1].passed:
        return rungs
    wanted = [_reference(artifact, g) for g in golden]
    try:
        got = [one.run(session) for one in ready]
    except EdgeDeployError as error:
        return [*rungs, Rung("outputs", False, str(error))]
    sides = [[task.comparable(outputs) for outputs in side] for side in (wanted, got)]
    rungs.append(_outputs(golden, sides[0], sides[1]))
    if rungs[-1].passed:
        rungs.append(_results(golden, ready, list(zip(wanted, got, strict=True))))
    return rungs


def _check_golden(artifact: Artifact, task: Task[Any]) -> None:
    """Refuse a bundle that nothing can be held against: digests do not tell whether a record makes sense."""
    golden = artifact.manifest.golden
    if not golden:
        raise UsageError(f"{artifact.path} has no golden vectors, so that nothing can be verified. Export it again.")
    for i, one in enumerate(golden):
        signature = artifact.signatures.get(one.graph)
        names = [spec.name for spec in signature.outputs] if signature else []
        takes = len(signature.inputs) if signature else -1
        samples = 1 if streams(task, one.graph) else takes
        agreed = [a.output for a in one.agreement]
        unchecked = not agreed and one.distance is None  # nothing could run it where it was exported
        counted = len(one.sample) == samples and len(one.prepared) == takes
        fits = counted and (agreed == names or unchecked)
        if not fits or set(one.outputs) != set(names):
            raise UsageError(
                f"{artifact.path} is damaged: golden vector {i} does not fit its graph '{one.graph}'. Export it again."
            )


def _reference(artifact: Artifact, golden: Golden) -> Outputs:
    """The stored outputs in the order of the graph; that of a mapping in JSON means nothing."""
    return {s.name: artifact.array(golden.outputs[s.name]) for s in artifact.signatures[golden.graph].outputs}


def _named(i: int, golden: Golden) -> str:
    return f"golden sample {i}" + ("" if golden.graph == "main" else f", for graph '{golden.graph}',")


def _prepare(golden: tuple[Golden, ...], ready: list[Ready]) -> Rung:
    for i, (one, sample) in enumerate(zip(golden, ready, strict=True)):
        for stored, tensor in zip(one.prepared, sample.tensors, strict=True):
            found = fingerprint(tensor)
            if not fingerprints_agree(stored, found):
                now, then = (f"mean {f.mean:.4f} {f.shape}" for f in (found, stored))
                seen = f"{_named(i, one)} became {now}, at export {then}"
                return Rung("prepare", False, seen)
    return Rung("prepare", True, f"{len(golden)} golden samples are prepared as at export")


def _outputs(golden: tuple[Golden, ...], wanted: list[Outputs], got: list[Outputs]) -> Rung:
    worst = float("inf")
    for i, (one, reference, outputs) in enumerate(zip(golden, wanted, got, strict=True)):
        found = agreement(reference, outputs)
        worst = min(worst, *(now.worst_snr for now in found))
        for then, now in zip(one.agreement, found, strict=bool(one.agreement)):
            whole = ("an SNR", then.snr, now.snr, SNR_SLACK)
            channel = ("a worst channel", then.worst_snr, now.worst_snr, CHANNEL_SLACK)
            for what, before, after, slack in (whole, channel):
                if after < min(GOOD_SNR, before - slack):
                    where = f"output '{now.output}' of {_named(i, one)}"
                    seen = f"{where} has {what} of {after:.1f} dB, at export {before:.1f} dB"
                    return Rung("outputs", False, seen)
    return Rung("outputs", True, f"the worst channel's SNR against the FP32 reference is {worst:.1f} dB")


def _results(golden: tuple[Golden, ...], ready: list[Ready], pairs: list[tuple[Outputs, Outputs]]) -> Rung:
    worst = 0.0
    for i, (one, sample, (reference, outputs)) in enumerate(zip(golden, ready, pairs, strict=True)):
        distance = sample.distance(reference, outputs)
        worst = max(worst, distance)
        if distance > (one.distance or 0.0) + DISTANCE_SLACK:
            then = "nothing ran them" if one.distance is None else f"by {one.distance:.3f}"
            seen = f"results on {_named(i, one)} moved by {distance:.3f}, at export {then}"
            return Rung("results", False, seen)
    return Rung("results", True, f"results move by at most {worst:.3f} (0 is none, 1 is all)")
