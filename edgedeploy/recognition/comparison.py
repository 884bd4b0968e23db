"""A keyword checkpoint in FP32 PyTorch against an artifact made of it: same clips, same code, paired statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgedeploy.accuracy import Equivalence
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact, OutputAgreement
from edgedeploy.capture import reference_session
from edgedeploy.compare import agreement
from edgedeploy.errors import UsageError
from edgedeploy.model import InputShape, Model, Source, load
from edgedeploy.opening import described, open_artifact_here
from edgedeploy.recognition.contract import check_same
from edgedeploy.recognition.early import Early, early
from edgedeploy.recognition.hearing import Ear, Hearing, Steps, Whole, hear
from edgedeploy.recognition.paired import Paired, equivalent, paired
from edgedeploy.recognition.resampling import Draw
from edgedeploy.recognition.words import WordAccuracy, word_accuracy
from edgedeploy.runtime import Session
from edgedeploy.tasks import STREAM, Heard, Keywords, from_contract
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tensors import Signature

SCHEMA = 1
MAIN = "main"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to compare: the ``margin`` of accuracy that does not matter, how is drawn, threads of the artifact."""

    margin: float = 0.01
    draw: Draw = field(default_factory=Draw)
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse a margin that nothing could lie within, before it takes time."""
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise UsageError(f"The margin of a comparison has to be a positive number, not {self.margin:g}.")


@dataclass(frozen=True)
class ChangedClip:
    """A clip that the artifact heard as another word; ``moved`` is the largest change of a score, 0 to 1."""

    clip: str
    spoken: str
    reference: str
    candidate: str
    moved: float


@dataclass(frozen=True)
class GraphComparison:
    """One graph of both.

    ``agreement`` is that of the logits, over all clips and all answers; of the graph `STREAM` there are the early
    decisions too.
    """

    graph: str
    reference: WordAccuracy
    candidate: WordAccuracy
    difference: Paired
    equivalence: Equivalence
    agreement: OutputAgreement
    changed: tuple[ChangedClip, ...]
    reference_early: Early | None = None
    candidate_early: Early | None = None


@dataclass(frozen=True)
class KeywordComparison:
    """What came out. ``run_by`` is what computed the artifact's side, or what it was emulated by."""

    schema: int
    checkpoint: Source
    artifact: str
    artifact_digest: str
    run_by: str
    data: str
    split: str
    data_digest: str
    graphs: tuple[GraphComparison, ...]
    doubts: tuple[str, ...]

    @property
    def equivalence(self) -> Equivalence:
        """That of the graph which does worst: a fail before what is not decided, before a pass."""
        order = ("fail", "not enough data", "pass")
        return min((graph.equivalence for graph in self.graphs), key=lambda found: order.index(found.outcome))


@dataclass(frozen=True)
class Side:
    """One of the two: what runs, with which signatures, and what to call it."""

    name: str
    session: Session
    signatures: dict[str, Signature]

    def ear(self, task: Keywords, graph: str) -> Ear:
        """How it listens with ``graph``."""
        return (Whole if graph == MAIN else Steps)(task, self.session, self.signatures[graph])


def compare_keywords(
    checkpoint: str, bundle: str | Path, data: ClipSet, options: Options | None = None, say: Progress | None = None
) -> KeywordComparison:
    """Run the checkpoint and the artifact over clips, and test whether they hear the words equally well.

    Every graph is compared that both have: the whole clip at once, and step by step. Both are judged by the artifact's
    task, so the checkpoint's own has to be the same.

    Raises:
        UsageError: the bundle hears no keywords, the checkpoint is of another task (`contract.check_same`), the two
            have no graph in common, or a word of the data is none of the model's.
        Untrusted, Unavailable, Incompatible: see `edgedeploy.model.load` and `edgedeploy.runtime.Runtime.open`.
    """
    options, say = options or Options(), say or (lambda _: None)
    artifact = open_artifact(bundle)
    task = keywords_of(artifact)
    say("loading the checkpoint")
    model = _loaded(checkpoint, artifact)
    check_same(model, task, artifact.manifest.source.reference)
    graphs = [graph for graph in (MAIN, STREAM) if graph in model.graphs and graph in artifact.signatures]
    if not graphs:
        raise UsageError(
            f"{checkpoint} and {bundle} have no graph in common: the one has {', '.join(sorted(model.graphs))}, the "
            f"other {', '.join(sorted(artifact.signatures))}. Compare with the checkpoint that the bundle was made of."
        )
    reference = Side("FP32 checkpoint", reference_session(model), {n: g.signature for n, g in model.graphs.items()})
    candidate = Side("artifact", open_artifact_here(artifact, options.threads), dict(artifact.signatures))
    try:
        compared = [
            _graph(graph, task, [_heard(side, task, graph, data, say) for side in (reference, candidate)], options)
            for graph in graphs
        ]
        run_by = f"{described(candidate.session)}, in {candidate.session.facts['computes_in']}"
    finally:
        reference.session.close()
        candidate.session.close()
    return KeywordComparison(
        schema=SCHEMA,
        checkpoint=model.source,
        artifact=str(bundle),
        artifact_digest=artifact.digest,
        run_by=run_by,
        data=data.name,
        split=data.split,
        data_digest=data.digest(),
        graphs=tuple(compared),
        doubts=_doubts(artifact, model, data, compared),
    )


def keywords_of(artifact: Artifact) -> Keywords:
    """The task of a bundle that hears keywords.

    Raises:
        UsageError: it hears none.
    """
    contract = artifact.manifest.task
    task = None if contract is None else from_contract(contract)
    if not isinstance(task, Keywords):
        raise UsageError(f"{artifact.path} hears no keywords: its task is '{task.kind if task else 'not known'}'.")
    return task


def _loaded(checkpoint: str, artifact: Artifact) -> Model:
    """With the graph of steps where the artifact and the checkpoint have one."""
    if STREAM in artifact.signatures:
        try:
            return load(checkpoint, InputShape(streaming=True))
        except UsageError:  # it takes no stream, of which `_doubts` tells; if that is not why, the next line says why
            pass
    return load(checkpoint)


def _heard(side: Side, task: Keywords, graph: str, data: ClipSet, say: Progress) -> Hearing:
    name = side.name if graph == MAIN else f"{side.name}, step by step"

    def count(done: int, clips: int) -> None:
        if done % max(1, clips // 10) == 0:
            say(f"{name}: {done} of {clips} clips")

    return hear(side.ear(task, graph), task, data, count)


def _graph(graph: str, task: Keywords, sides: list[Hearing], options: Options) -> GraphComparison:
    one, other = sides
    difference = paired(one, other, options.draw)
    moments = [early(side, task, options.draw) if graph == STREAM else None for side in sides]
    flat = [{"logits": side.logits.reshape(-1, len(side.labels))} for side in sides]
    return GraphComparison(
        graph=graph,
        reference=word_accuracy(one, options.draw),
        candidate=word_accuracy(other, options.draw),
        difference=difference,
        equivalence=equivalent(difference, options.margin),
        agreement=agreement(*flat)[0],
        changed=_changed(task, one, other),
        reference_early=moments[0],
        candidate_early=moments[1],
    )


def _changed(task: Keywords, one: Hearing, other: Hearing) -> tuple[ChangedClip, ...]:
    """Clips whose final word is another, most changed first."""
    before, after = one.words_heard[:, -1], other.words_heard[:, -1]
    rows = []
    for i in np.flatnonzero(before != after).tolist():
        first, second = (task.finish([side.logits[i, -1:]], None) for side in (one, other))
        was, now = (one.labels[word] if word >= 0 else "" for word in (before[i], after[i]))
        rows.append(ChangedClip(one.clips[i], one.labels[one.words[i]], was, now, _moved(first, second)))
    return tuple(sorted(rows, key=lambda row: -row.moved))


def _moved(one: Heard, other: Heard) -> float:
    return float(np.nan_to_num(np.abs(one.scores - other.scores), nan=1.0).max())


def _doubts(artifact: Artifact, model: Model, data: ClipSet, compared: list[GraphComparison]) -> tuple[str, ...]:
    doubts = [
        *data.faults,
        *(d for graph in compared for side in (graph.reference, graph.candidate) for d in side.doubts),
    ]
    made_from = artifact.manifest.source
    if made_from.sha256 != model.source.sha256:
        doubts.append(
            f"The artifact was made from {made_from.reference} (sha256 {made_from.sha256[:12]}), not from "
            f"{model.source.reference} ({model.source.sha256[:12]}): the difference is that of two models."
        )
    if STREAM in artifact.signatures and STREAM not in model.graphs:
        doubts.append(
            "Only whole clips were compared: the artifact also runs step by step, and "
            f"{model.source.reference} does not."
        )
    if model.task is None:
        doubts.append(
            f"{model.source.reference} does not say what its labels and features are: those of the artifact were taken."
        )
    calibration = artifact.manifest.calibration
    if calibration is not None and calibration.sha256 == data.digest():
        doubts.append("The artifact was calibrated on these very clips: its accuracy on others may be lower.")
    return tuple(dict.fromkeys(doubts))
