"""What the user is told about an export besides that it worked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact
from edgedeploy.cli.export import _about
from edgedeploy.device import Device
from edgedeploy.exporter import Evidence, Request
from edgedeploy.pipeline import evidence_from
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set


def notes(artifact: Artifact, evidence: Evidence, board: Device | None = None) -> list[str]:
    precision = artifact.manifest.exporter.precision
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(board, precision, {})
    return _about(evidence, Request(exporter, evidence, device=board), artifact)


@pytest.fixture
def data(scenes: Path) -> DetectionSet:
    return read_detection_set(scenes, "train")


def only(data: DetectionSet, kind: int) -> DetectionSet:
    """The same images, with the objects of one class."""
    samples = []
    for sample in data.samples:
        kept = sample.classes == kind
        fields = {name: getattr(sample, name)[kept] for name in ("boxes", "classes", "area", "crowd")}
        samples.append(dataclasses.replace(sample, **fields))
    return dataclasses.replace(data, samples=tuple(samples))


def test_images_that_show_every_class_need_no_words(exported: Callable[..., Artifact], data: DetectionSet) -> None:
    assert notes(exported("int8"), evidence_from(data, 200)) == []


def test_classes_that_calibration_has_not_seen_are_counted(
    exported: Callable[..., Artifact], data: DetectionSet
) -> None:
    assert notes(exported("int8"), evidence_from(only(data, 0), 200)) == ["the calibration images show 1 of 4 classes"]


def test_golden_vectors_that_are_no_images_of_the_user_are_said(exported: Callable[..., Artifact]) -> None:
    artifact = exported("fp32")
    manifest = dataclasses.replace(artifact.manifest, golden_origin="4 synthetic aerial scenes")
    stand_in = dataclasses.replace(artifact, manifest=manifest)
    assert notes(stand_in, Evidence([], "4 synthetic aerial scenes", stand_in=True)) == [
        "golden vectors are 4 synthetic aerial scenes: give --calibrate to check on images of your own"
    ]


def test_what_the_device_is_not_known_to_have_is_said(exported: Callable[..., Artifact], data: DetectionSet) -> None:
    artifact = exported("int8")
    manifest = dataclasses.replace(artifact.manifest, requires=("onnxruntime>=99",))
    wanting = dataclasses.replace(artifact, manifest=manifest)
    said = notes(wanting, evidence_from(data, 200), device.load("raspberry-pi-5"))
    assert any("onnxruntime>=99 is needed" in note for note in said)
