"""The ladder: every form of a model between the checkpoint and its artifact on the same real samples, rung by rung.

The first rung that breaks is named, then the module where the drift begins, then what can be done. What breaks a rung:

- a form in FP32 (exported program, ONNX, an FP32 artifact): a channel with an SNR below `exporter.FP32_SNR`, or results
  that move by more than `exporter.FP32_DISTANCE`;
- a lower precision: results that move by more than the exporter's limit (`precision.choice.LIMITS` where the user gave
  none, or one of 1, which says nothing), an output that is NaN or infinite, or a fall of `FALL` dB below the rung
  before with results that move by `FP32_DISTANCE` more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedeploy.artifact import Artifact, OutputAgreement
from edgedeploy.capture import reference_session
from edgedeploy.causes import Finding, broken_input, explain, permuted
from edgedeploy.compare import agreement
from edgedeploy.drift import Drift, EagerTaps, Watch, begins, merged
from edgedeploy.errors import EdgeDeployError
from edgedeploy.exporter import FP32_DISTANCE, FP32_SNR, Evidence, Progress
from edgedeploy.golden import first_row
from edgedeploy.model import InputShape, Model, Source
from edgedeploy.opening import described
from edgedeploy.precision.choice import LIMITS
from edgedeploy.rungs import ONNX, Form, Missing, Rung, Subject, forms
from edgedeploy.runtime import TAP, Outputs, Session, inputs_of
from edgedeploy.tasks.task import STREAM, Prepared
from edgedeploy.tensors import Array, Signature

SCHEMA = 1
#: A lower precision that loses so many dB more than the rung before did not come by it from its precision alone.
FALL = 6.0
#: Golden samples are few, and the limit is one for the mean over more of them.
GOLDEN_SLACK = 1.5
#: Samples on which modules are watched: they cost much more than outputs.
WATCHED = 4
#: With its inside shown, a graph that is better by so many dB does not show its fault.
REPEATS = 30.0


@dataclass(frozen=True)
class Ladder:
    """What came out. ``broken`` names the first rung that broke; ``findings`` say why, and what to do."""

    schema: int
    checkpoint: Source
    artifact: str
    artifact_digest: str
    precision: str
    samples: str
    count: int
    rungs: tuple[Rung, ...]
    broken: str | None
    drift: Drift | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Wanted:
    """What FP32 gives for one sample: outputs by name, and the task's result."""

    sample: Any
    prepared: Prepared
    outputs: Outputs
    result: Any


def climb(
    model: Model,
    artifact: Artifact,
    evidence: Evidence | None = None,
    threads: int | None = None,
    say: Progress | None = None,
) -> Ladder:
    """Run every form of ``model`` up to ``artifact`` on real samples, and look for where it goes wrong.

    Args:
        model: what the artifact was made from, in the artifact's shape (`shape_of`).
        artifact: the opened bundle.
        evidence: real samples; the artifact's golden samples where ``None``.
        threads: of ONNX Runtime and the artifact's runtime.
        say: told what is going on.

    Raises:
        UsageError: a sample is not what the task takes.
        Unavailable: torch is not installed.
    """
    subject, say = Subject.of(model, artifact, evidence, threads), say or (lambda _: None)
    reference = reference_session(subject.model)
    say("running the FP32 reference")
    wanted = [_wanted(subject, reference, sample) for sample in subject.evidence.samples]
    rungs = [_reference_rung(reference), _input_rung(subject, wanted)]
    with tempfile.TemporaryDirectory(prefix="edgedeploy-ladder-") as folder:
        tappable: dict[str, Form] = {}
        before: Rung | None = None
        for form in forms(subject, reference, Path(folder), say):
            if isinstance(form, Missing):
                rungs.append(Rung(form.name, "broke" if form.broken else "skipped", seen=form.reason))
                continue
            say(f"running {form.name}")
            rungs.append(_measured(subject, form, wanted, before if form.kind == "lowered" else None))
            before = rungs[-1] if form.kind == "lowered" else None
            tappable |= {form.name: form} if form.tapped else {}
        broken = next((rung for rung in rungs if rung.state == "broke"), None)
        drift = None
        if broken is not None and broken.agreement and not broken.swapped:
            say("looking for where the drift begins")
            drift = _drift(subject, rungs, tappable, wanted[:WATCHED])
    reference.close()
    return Ladder(
        schema=SCHEMA,
        checkpoint=model.source,
        artifact=str(artifact.path),
        artifact_digest=artifact.digest,
        precision=subject.precision,
        samples=subject.evidence.origin,
        count=len(wanted),
        rungs=tuple(rungs),
        broken=broken.name if broken else None,
        drift=drift,
        findings=explain(subject, rungs, drift),
    )


def doubtful(artifact: Artifact) -> bool:
    """Whether the golden samples moved so much further at export than the precision may that a ladder is worth it."""
    manifest = artifact.manifest
    moved = [golden.distance for golden in manifest.golden if golden.distance is not None]
    limit = FP32_DISTANCE if manifest.exporter.precision == "fp32" else limit_of(artifact)
    return bool(moved) and float(np.mean(moved)) > GOLDEN_SLACK * limit


def shape_of(artifact: Artifact, reference: str) -> InputShape:
    """The shape to load a checkpoint in so that its graph is that of the artifact. A program cannot change its own."""
    if reference.lower().endswith(".pt2"):
        return InputShape()
    dims = artifact.signatures["main"].inputs[0].shape
    contract = artifact.manifest.task or {}
    dynamic: list[Literal["batch", "size"]] = ["batch"] if dims and isinstance(dims[0], str) else []
    if any(isinstance(d, str) for d in dims[-2:]) and "size" in contract:
        dynamic.append("size")
    batch = dims[0] if dims and isinstance(dims[0], int) else 1
    size = contract.get("size")
    sides = (int(size[0]), int(size[1])) if size else None
    if reference.lower().endswith(".onnx"):
        return InputShape(batch, sides)
    return InputShape(batch, sides, tuple(dynamic), streaming=STREAM in artifact.signatures)


def _wanted(subject: Subject, reference: Session, sample: Any) -> Wanted:
    prepared = subject.task.prepare(sample)
    outputs = _run(reference, subject.model.graphs["main"].signature, prepared)
    return Wanted(sample, prepared, outputs, subject.task.finish(list(outputs.values()), prepared.context))


def _run(session: Session, signature: Signature, prepared: Prepared) -> Outputs:
    session.reset()
    return first_row(session.run(inputs_of(signature, prepared.tensors)), signature)


def _reference_rung(reference: Session) -> Rung:
    return Rung("eager" if reference.facts["runtime"] == "torch eager" else "float ONNX", "held", described(reference))


def _input_rung(subject: Subject, wanted: Sequence[Wanted]) -> Rung:
    wrong = broken_input(subject, [one.sample for one in wanted])
    return Rung("input", "broke" if wrong else "held", seen=wrong)


def _measured(subject: Subject, form: Form, wanted: Sequence[Wanted], before: Rung | None) -> Rung:
    """The form on all samples; what it makes of them is judged by its own task."""
    try:
        session = form.open()
    except EdgeDeployError as error:
        return Rung(form.name, "skipped" if form.kind == "exact" else "broke", seen=str(error))
    by = form.by or described(session)
    names = [spec.name for spec in subject.model.graphs["main"].signature.outputs]
    agreed, moved, pairs, nonfinite = [], [], [], 0
    try:
        for one in wanted:
            prepared = form.task.prepare(one.sample)
            values = list(_run(session, form.signature, prepared).values())
            got = dict(zip(names, values, strict=True))
            agreed.append(agreement(subject.task.comparable(one.outputs), form.task.comparable(got)))
            moved.append(subject.task.distance(one.result, form.task.finish(values, prepared.context)))
            nonfinite += sum(_nonfinite(one.outputs[name], got[name]) for name in names)
            pairs.append((one.outputs, got))
    except EdgeDeployError as error:
        return Rung(form.name, "broke", by, seen=str(error))
    finally:
        session.close()
    rung = Rung(form.name, "held", by, _worst(agreed), float(np.mean(moved)), nonfinite)
    seen = _judged(rung, form, subject, before)
    if not seen:
        return rung
    return replace(rung, state="broke", seen=seen, swapped=permuted(pairs))


def _nonfinite(reference: Array, values: Array) -> int:
    return int((~np.isfinite(values)).sum()) if np.isfinite(reference).all() else 0


def _worst(agreed: Sequence[tuple[OutputAgreement, ...]]) -> tuple[OutputAgreement, ...]:
    """Per output, the worst over the samples."""
    return tuple(
        OutputAgreement(
            seen[0].output,
            min(one.snr for one in seen),
            min(one.worst_snr for one in seen),
            max(one.max_abs for one in seen),
        )
        for seen in zip(*agreed, strict=True)
    )


def limit_of(artifact: Artifact) -> float:
    """How far a lower precision may move results: the user's limit, unless it allows anything, else the default."""
    limit = artifact.manifest.exporter.options.get("limit")
    usual = LIMITS.get(artifact.manifest.exporter.precision, LIMITS["int8"])
    return float(limit) if isinstance(limit, (int, float)) and limit < 1 else usual


def _judged(rung: Rung, form: Form, subject: Subject, before: Rung | None) -> str:
    """Why the rung breaks; empty where it holds. See the module's words for the rules."""
    worst, distance = rung.worst, rung.distance or 0.0
    if worst is None:
        return "it gave no output"
    if rung.nonfinite:
        return f"{rung.nonfinite} output values are NaN or infinite"
    if form.kind == "exact":
        if worst.worst_snr < FP32_SNR:
            said = f"output '{worst.output}' has a channel with an SNR of {worst.worst_snr:.0f} dB"
            return f"{said}, at least {FP32_SNR:.0f} dB expected"
        return _too_far(distance, FP32_DISTANCE)
    too_far = _too_far(distance, limit_of(subject.artifact))
    if too_far or before is None or not before.lossy:
        return too_far
    fall = min(one.snr for one in before.agreement) - min(one.snr for one in rung.agreement)
    if fall > FALL and distance > (before.distance or 0.0) + FP32_DISTANCE:
        return f"its SNR is {fall:.0f} dB below that of {before.name}, and results move by {distance:.3f}"
    return ""


def _too_far(distance: float, limit: float) -> str:
    return f"results move by {distance:.3f}, over the limit of {limit:g}" if distance > limit else ""


def _drift(
    subject: Subject, rungs: Sequence[Rung], tappable: Mapping[str, Form], wanted: Sequence[Wanted]
) -> Drift | None:
    """Inside the first broken rung that shows its inside; ``None`` where none does."""
    onnx = tappable.get(ONNX) if any(r.name == ONNX and r.state == "held" for r in rungs) else None
    for rung in rungs:
        form = tappable.get(rung.name)
        if rung.state != "broke" or form is None or form.tapped is None:
            continue
        try:
            session = form.tapped()
        except EdgeDeployError:
            continue
        with closing(session):
            return _watched(subject, Watched(rung, form, session, onnx), wanted)
    return None


@dataclass(frozen=True)
class Watched:
    """A broken rung with its inside shown, and the float ONNX that completes the reference, where it holds."""

    rung: Rung
    form: Form
    session: Session
    onnx: Form | None


def _watched(subject: Subject, inside: Watched, wanted: Sequence[Wanted]) -> Drift:
    model, watch, agreed = subject.model, Watch(), []
    eager = None if isinstance(model.graphs["main"].network, Path) else EagerTaps(model)
    graph = inside.onnx.tapped() if inside.onnx is not None and inside.onnx.tapped is not None else None
    precision = subject.precision if inside.form.kind == "lowered" else "fp32"
    for one in wanted:
        inputs = inputs_of(model.graphs["main"].signature, one.prepared.tensors)
        for session in filter(None, (graph, inside.session)):
            session.reset()
        reference = merged(eager.run(inputs) if eager else {}, _taps(graph.run(inputs)) if graph else {})
        prepared = inside.form.task.prepare(one.sample)
        outputs = inside.session.run(inputs_of(inside.form.signature, prepared.tensors))
        watch.add(reference, _taps(outputs))
        got = first_row(outputs, inside.form.signature)
        agreed.append(agreement(subject.task.comparable(one.outputs), inside.form.task.comparable(got)))
    if graph is not None:
        graph.close()
    first, before, sharp = begins(watch.rows(), precision)
    return Drift(inside.rung.name, first, before, sharp, _repeats(inside.rung, agreed), watch.rows())


def _taps(outputs: Outputs) -> Outputs:
    return {name: values for name, values in outputs.items() if name.startswith(TAP)}


def _repeats(rung: Rung, agreed: Sequence[tuple[OutputAgreement, ...]]) -> bool:
    """Whether outputs are about as wrong as without taps, on the samples that were watched."""
    shown = min(one.worst_snr for one in _worst(agreed))
    return rung.worst is None or shown < rung.worst.worst_snr + REPEATS
