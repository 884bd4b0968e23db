"""A checkpoint in FP32 PyTorch against an artifact made of it: same images, same code, paired statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedeploy.accuracy import (
    Accuracy,
    Assessment,
    Equivalence,
    PairedDifference,
    assess,
    equivalence,
    paired_difference,
)
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact, OutputAgreement
from edgedeploy.capture import reference_session
from edgedeploy.compare import agreement
from edgedeploy.errors import UsageError
from edgedeploy.golden import Caller
from edgedeploy.model import InputShape, Source, load
from edgedeploy.opening import described, open_artifact_here
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tasks.dataset import DetectionSet, match_labels
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.image import read_image
from edgedeploy.tasks.protocol import ULTRALYTICS, Protocol

SCHEMA = 1
#: Images on which raw outputs are compared tensor by tensor; the task metric is taken on all.
AGREEMENT_IMAGES = 16

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to compare: the ``margin`` of AP50-95 that does not matter, draws of the bootstrap and their seed,
    the rules of the evaluation, threads of the artifact's session.
    """

    margin: float = 0.01
    replicates: int = 1000
    seed: int = 0
    protocol: Protocol = ULTRALYTICS
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse a margin that nothing could lie within, before it takes time."""
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise UsageError(f"The margin of a comparison has to be a positive number, not {self.margin:g}.")


@dataclass(frozen=True)
class ChangedImage:
    """An image whose detections moved: how far (0 to 1), and how many boxes of score 0.25 or more on either side."""

    image: str
    distance: float
    reference_boxes: int
    candidate_boxes: int


@dataclass(frozen=True)
class Comparison:
    """What came out.

    ``run_by`` is what computed the artifact's side: its runtime, or what it was emulated by. ``agreement`` holds, per
    output, the median SNR, the worst SNR of a channel, the largest error.
    """

    schema: int
    checkpoint: Source
    artifact: str
    artifact_digest: str
    run_by: str
    reference: Accuracy
    candidate: Accuracy
    difference: PairedDifference
    equivalence: Equivalence
    agreement: tuple[OutputAgreement, ...]
    changed: tuple[ChangedImage, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """A `Comparison` with the detections behind it, in the data set's classes and order."""

    comparison: Comparison
    data: DetectionSet
    reference: tuple[Detections, ...]
    candidate: tuple[Detections, ...]


def compare(
    checkpoint: str, bundle: str | Path, data: DetectionSet, options: Options | None = None, say: Progress | None = None
) -> Compared:
    """Run the checkpoint and the artifact over a data set and test whether their AP50-95 is the same.

    Raises:
        UsageError: the bundle is no detector, or model and data have different classes.
        Untrusted, Unavailable, Incompatible: see `edgedeploy.model.load` and `edgedeploy.runtime.Runtime.open`.
    """
    options, say = options or Options(), say or (lambda _: None)
    artifact = open_artifact(bundle)
    task = _detector(artifact)
    match_labels(task.labels, data.labels)  # before any work
    say("loading the checkpoint")
    model = load(checkpoint, _shape(checkpoint, task, artifact))
    signature = artifact.signatures["main"]
    reference = Caller(reference_session(model), model.graphs["main"].signature)
    candidate = Caller(open_artifact_here(artifact, options.threads), signature)
    agreed = _agreement(task, reference, candidate, data)
    sides = [
        assess(task, call, data, digest, options.protocol, _counted(say, name))
        for call, digest, name in (
            (reference, model.source.sha256, "FP32 checkpoint"),
            (candidate, artifact.digest, "artifact"),
        )
    ]
    candidate.session.close()
    say("bootstrap over images")
    difference = paired_difference(sides[0].matches, sides[1].matches, options.replicates, seed=options.seed)
    comparison = Comparison(
        schema=SCHEMA,
        checkpoint=model.source,
        artifact=str(bundle),
        artifact_digest=artifact.digest,
        run_by=f"{described(candidate.session)}, in {candidate.session.facts['computes_in']}",
        reference=sides[0].accuracy,
        candidate=sides[1].accuracy,
        difference=difference,
        equivalence=equivalence(difference.ap50_95, options.margin),
        agreement=agreed,
        changed=_changed(task, data, sides),
        doubts=_doubts(artifact, model.source, sides),
    )
    return Compared(comparison, data, sides[0].detections, sides[1].detections)


def _detector(artifact: Artifact) -> Detect:
    contract = artifact.manifest.task
    task = None if contract is None else from_contract(contract)
    if not isinstance(task, Detect):
        raise UsageError(
            f"{artifact.path} is no detector that says how its output is read, so it has no AP. 'edgedeploy verify' "
            "compares its tensors; an .onnx detector gets a contract by exporting it with --head."
        )
    return task


def _shape(checkpoint: str, task: Detect, artifact: Artifact) -> InputShape:
    """The artifact's own image size: at another one the checkpoint would be another model. A program cannot change."""
    if checkpoint.lower().endswith(".pt2"):
        return InputShape()
    batch = artifact.signatures["main"].inputs[0].shape[0]
    fixed = checkpoint.lower().endswith(".onnx") and isinstance(batch, int)
    return InputShape(batch=int(batch) if fixed else 1, size=task.size)


def _agreement(task: Detect, reference: Caller, candidate: Caller, data: DetectionSet) -> tuple[OutputAgreement, ...]:
    found: dict[str, list[OutputAgreement]] = {}
    names = [spec.name for spec in reference.signature.outputs]
    for sample in data.samples[:AGREEMENT_IMAGES]:
        tensors = task.prepare(read_image(sample.image)).tensors
        wanted, got = (dict(zip(names, call(tensors), strict=True)) for call in (reference, candidate))
        for one in agreement(task.comparable(wanted), task.comparable(got)):
            found.setdefault(one.output, []).append(one)
    return tuple(
        OutputAgreement(
            name,
            float(np.median([one.snr for one in seen])),
            min(one.worst_snr for one in seen),
            max(one.max_abs for one in seen),
        )
        for name, seen in found.items()
    )


def _changed(task: Detect, data: DetectionSet, sides: Sequence[Assessment]) -> tuple[ChangedImage, ...]:
    """Every image, most changed first."""
    rows = []
    for sample, one, other in zip(data.samples, sides[0].detections, sides[1].detections, strict=True):
        visible = [int((found.scores >= task.confidence).sum()) for found in (one, other)]
        rows.append(ChangedImage(str(sample.image), task.distance(one, other), *visible))
    return tuple(sorted(rows, key=lambda row: -row.distance))


def _doubts(artifact: Artifact, source: Source, sides: Sequence[Assessment]) -> tuple[str, ...]:
    doubts = [doubt for side in sides for doubt in side.accuracy.doubts]
    made_from = artifact.manifest.source
    if made_from.sha256 != source.sha256:
        doubts.append(
            f"The artifact was made from {made_from.reference} (sha256 {made_from.sha256[:12]}), not from "
            f"{source.reference} ({source.sha256[:12]}): the difference is that of two models."
        )
    calibration = artifact.manifest.calibration
    if calibration is not None and calibration.sha256 == sides[0].accuracy.data_digest:
        doubts.append("The artifact was calibrated on these very images: its accuracy on others may be lower.")
    return tuple(dict.fromkeys(doubts))


def _counted(say: Progress, name: str) -> Callable[[int, int], None]:
    def count(done: int, images: int) -> None:
        if done % max(1, images // 10) == 0:
            say(f"{name}: {done} of {images} images")

    return count
