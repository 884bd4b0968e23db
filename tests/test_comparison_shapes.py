"""A checkpoint against artifacts of other shapes than its own: sizes and batches meet, whatever the checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("faster_coco_eval")

import torch

from edgedeploy.artifact import Artifact
from edgedeploy.comparison import Options, compare
from edgedeploy.model import InputShape
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set

QUICK = Options(replicates=100, threads=1)
DYNAMIC = InputShape(size=(160, 160), dynamic=("batch", "size"))
FOUR = InputShape(batch=4, size=(160, 160))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few(scenes: Path) -> DetectionSet:
    return read_detection_set(scenes, "val").subset(range(3))


@pytest.mark.parametrize("shape", [DYNAMIC, FOUR], ids=["dynamic", "batch of four"])
def test_a_checkpoint_runs_at_the_size_of_the_artifact(
    shape: InputShape, exported: Callable[..., Artifact], aerial: Path, few: DetectionSet
) -> None:
    found = compare(str(aerial), exported("fp32", shape).path, few, QUICK).comparison
    assert found.reference.size == found.candidate.size == (160, 160)
    assert all(one.distance < 0.01 for one in found.changed)


@pytest.mark.parametrize("shape", [None, DYNAMIC, FOUR], ids=["fixed", "dynamic", "batch of four"])
def test_an_onnx_file_can_be_the_checkpoint(
    shape: InputShape | None, exported: Callable[..., Artifact], few: DetectionSet
) -> None:
    """The graph inside the bundle, as somebody may have got it by itself."""
    artifact = exported("fp32", shape)
    found = compare(str(artifact.files["main"]), artifact.path, few, QUICK).comparison
    assert all(one.distance < 1e-6 for one in found.changed)
    assert all(one.worst_snr > 100 for one in found.agreement)


def test_int8_is_near_and_it_is_said_how_near(exported: Callable[..., Artifact], aerial: Path, scenes: Path) -> None:
    found = compare(str(aerial), exported("int8").path, read_detection_set(scenes, "val"), QUICK).comparison
    assert abs(found.difference.ap50_95.estimate) < 0.1
    assert 0 < found.changed[0].distance < 0.5
    (agreed,) = found.agreement
    assert 10 < agreed.worst_snr <= agreed.snr < 80
