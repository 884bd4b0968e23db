"""Work that is not done twice: a checkpoint is exported only if the artifact on disk is not still true."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.artifact import SUFFIX, Artifact, CalibrationRecord
from edgedeploy.errors import EdgeDeployError, UsageError, did_you_mean
from edgedeploy.exporter import Evidence, Progress, Request, export
from edgedeploy.golden import Sample
from edgedeploy.model import Model, identify, load
from edgedeploy.tasks import contract_of, from_contract
from edgedeploy.tasks.clips import ClipSet, Sounds, load_clips
from edgedeploy.tasks.dataset import DetectionSet, match_labels, read_detection_set
from edgedeploy.tasks.detect import Detect
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tasks.image import read_image
from edgedeploy.tasks.keywords import Keywords
from edgedeploy.tasks.speech_files import is_clips, read_clips
from edgedeploy.tasks.task import Task
from edgedeploy.tensors import Array

#: Layouts of a detector's output, see `edgedeploy.tasks.detect.Detect`.
HEADS = ("yolov8", "yolox", "end2end")


@dataclasses.dataclass(frozen=True)
class Exported:
    """The artifact, and whether it was there already."""

    artifact: Artifact
    reused: bool


def export_checkpoint(reference: str, request: Request, directory: Path, progress: Progress | None = None) -> Exported:
    """``directory/NAME.edge`` for a checkpoint; written only if what is there was not made from the same request.

    Args:
        reference: see `edgedeploy.model.load`.
        request: exporter, evidence, input shape, device; ``head`` for a model that does not say what it is for.
        directory: where bundles are kept.
        progress: told what is going on, in a few words.

    Raises:
        UsageError, Untrusted, Unavailable, ExportFailed: see `load` and `export`.
    """
    source = identify(reference)
    target = directory / f"{source.name}{SUFFIX}"
    if source.format != "factory":  # what a function returns can change without its file changing
        known = still_true(target, request.digest(source))
        if known is not None:
            return Exported(known, reused=True)
    say = progress or (lambda _: None)
    say(f"loading {source.name}")
    model = load(reference, request.shape)
    if request.head:
        model = dataclasses.replace(model, task=_contract(request.head, model, request.evidence.labels))
    if request.evidence.labels:
        request = dataclasses.replace(request, evidence=_fitting(model, request.evidence))
    return Exported(export(model, request, directory, progress), reused=False)


def still_true(target: Path, request: str) -> Artifact | None:
    """The bundle at ``target`` if it is whole and was made from this very request."""
    try:
        artifact = Artifact.open(target)
    except EdgeDeployError:
        return None
    return artifact if artifact.manifest.request == request else None


class Images(Sequence[Array]):
    """The images of a data set, read when asked for; those that cannot be read are passed over by `DetectionSet`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        return read_image(self._paths[index])


def read_calibration_set(path: Path, split: str | None) -> DetectionSet | ClipSet:
    """The data set to calibrate on: ``split`` if given, else ``train``, else ``val`` of images and all of recordings.

    Ranges are best taken from samples on which nobody measures the accuracy afterwards.

    Raises:
        UsageError: see `edgedeploy.tasks.dataset.read_detection_set` and `edgedeploy.tasks.speech_files.read_clips`.
    """
    sound = is_clips(path)
    read = read_clips if sound else read_detection_set
    if split is not None or path.suffix.lower() == ".json":
        return read(path, split or "val")
    try:
        return read(path, "train")
    except UsageError:
        return read(path, "all" if sound else "val")


def evidence_from(data: DetectionSet | ClipSet, most: int) -> Evidence:
    """Real samples of a data set, at most ``most``, evenly spread over it, with a record of what they cover.

    Recordings are resampled where they have another rate than the model takes.

    Raises:
        UsageError: ``most`` is less than 1.
    """
    kind = "clips" if isinstance(data, ClipSet) else "images"
    if most < 1:
        raise UsageError(f"{most} calibration {kind} calibrate nothing; give 100 or more.")
    picks = np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int)
    chosen = data.subset(picks)
    if isinstance(chosen, ClipSet):
        seen = {clip.word for clip in chosen.clips}
        samples: Sequence[Sample] = load_clips(chosen, Fbank().sample_rate, resample=True)
    else:
        seen = {int(c) for sample in chosen.samples for c in sample.classes}
        samples = Images([sample.image for sample in chosen.samples])
    record = CalibrationRecord(chosen.name, len(chosen), chosen.digest(), len(seen), len(data.labels))
    labelled = None if isinstance(chosen, ClipSet) else chosen
    return Evidence(samples, f"{chosen.name}, {len(chosen)} {kind}", record, data.labels, labelled=labelled)


def _fitting(model: Model, evidence: Evidence) -> Evidence:
    """The evidence of a data set as the model takes it: images or sound, this at its rate, of classes that it knows."""
    task: Task[Any] | None = None if model.task is None else from_contract(model.task)
    if task is None:
        raise UsageError(
            f"{model.name} does not say how samples enter it, so that a data set is of no use to it. If it is a "
            "detector, give its --head; else give tensors as Evidence of edgedeploy.exporter in Python."
        )
    samples = evidence.samples
    if isinstance(task, Keywords) and isinstance(samples, Images):
        raise UsageError(f"{model.name} takes sound, and there are images in {evidence.origin}: give clips.")
    if isinstance(task, Detect) and isinstance(samples, Sounds):
        raise UsageError(f"{model.name} takes images, and there is sound in {evidence.origin}: give a data.yaml.")
    if isinstance(task, (Detect, Keywords)):
        match_labels(task.labels, evidence.labels)
    if isinstance(task, Keywords) and isinstance(samples, Sounds):
        return dataclasses.replace(evidence, samples=samples.at(task.features.sample_rate))
    return evidence


def _contract(head: str, model: Model, labels: tuple[str, ...]) -> dict[str, Any]:
    """The contract of a detector of which only the layout of its output is known."""
    signature = model.graphs["main"].signature
    sides = signature.inputs[0].shape[-2:]
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 4 or any(isinstance(s, str) for s in sides):
        raise UsageError(f"{model.name} takes {signature.inputs}, not one image of a fixed size, as a detector does.")
    size = (int(sides[0]), int(sides[1]))
    if not labels:
        raise UsageError(f"{model.name} does not name its classes: give a data set that does, with --calibrate.")
    if head == "yolox":
        return contract_of(Detect.yolox(labels, size))
    if head in ("yolov8", "end2end"):
        return contract_of(Detect(labels, size, head=head))  # type: ignore[arg-type]
    raise UsageError(f"There is no detection head '{head}'.{did_you_mean(head, HEADS)}")
