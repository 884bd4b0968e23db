"""A checkpoint against artifacts: the same, a worse one, one of another checkpoint, and what is doubted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("PIL")

from edgedeploy.artifact import Artifact, CalibrationRecord, Manifest, seal  # noqa: E402
from edgedeploy.comparison import Compared, Options, compare  # noqa: E402
from edgedeploy.errors import UsageError  # noqa: E402
from edgedeploy.report.pictures import CAPTION, PANEL  # noqa: E402
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set  # noqa: E402

Reseal = Callable[..., Path]
FAST = Options(replicates=200, threads=1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    from edgedeploy.demo.scenes import write_dataset

    return read_detection_set(write_dataset(tmp_path_factory.mktemp("val") / "scenes", train=0, val=30))


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Artifact]) -> Artifact:
    return exported("fp32")


@pytest.fixture(scope="module")
def same(aerial: Path, bundle: Artifact, data: DetectionSet) -> tuple[Compared, list[str]]:
    """The comparison of the artifact with its own checkpoint, and what was said meanwhile."""
    said: list[str] = []
    return compare(str(aerial), bundle.path, data, FAST, said.append), said


@pytest.fixture(scope="module")
def reseal(bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Reseal:
    """A copy of the bundle with noise of some share of each weight, and another manifest; whole, as far as it says."""

    def reseal(noise: float = 0.0, change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> Path:
        path = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("other") / "other.edge"))
        (path / "artifact.json").unlink()
        if noise:
            file = path / bundle.manifest.graphs["main"].file
            model = onnx.load(file)
            generator = np.random.default_rng(0)
            for tensor in model.graph.initializer:
                values = onnx.numpy_helper.to_array(tensor)
                if values.dtype == np.float32 and values.ndim == 4:
                    noisy = values * (1 + noise * generator.standard_normal(values.shape).astype(np.float32))
                    tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
            onnx.save(model, file)
        seal(path, change(bundle.manifest))
        return path

    return reseal


@pytest.fixture(scope="module")
def worse(aerial: Path, data: DetectionSet, reseal: Reseal) -> Compared:
    return compare(str(aerial), reseal(noise=0.25), data, FAST)


# The same


def test_an_artifact_of_the_checkpoint_is_the_same(same: tuple[Compared, list[str]], bundle: Artifact) -> None:
    comparison = same[0].comparison
    assert comparison.equivalence.outcome == "pass"
    assert abs(comparison.difference.ap50_95.estimate) < 1e-3
    assert comparison.reference.metric.ap50_95 is not None
    assert comparison.reference.metric.ap50_95 > 0.5  # two blind models are also the same
    assert min(one.worst_snr for one in comparison.agreement) > 60
    assert max(image.distance for image in comparison.changed) < 0.01
    assert comparison.doubts == ()
    assert comparison.artifact_digest == bundle.digest
    assert comparison.checkpoint == bundle.manifest.source


def test_every_image_is_there_on_both_sides(same: tuple[Compared, list[str]], data: DetectionSet) -> None:
    compared = same[0]
    assert len(compared.reference) == len(compared.candidate) == len(data) == 30
    assert {image.image for image in compared.comparison.changed} == {str(s.image) for s in data.samples}
    assert compared.comparison.reference.data_digest == compared.comparison.candidate.data_digest == data.digest()
    sizes = {
        (accuracy.size, accuracy.images_by)
        for accuracy in (compared.comparison.reference, compared.comparison.candidate)
    }
    assert len(sizes) == 1


def test_progress_counts_both_sides(same: tuple[Compared, list[str]]) -> None:
    said = same[1]
    assert said[0] == "loading the checkpoint"
    assert "FP32 checkpoint: 30 of 30 images" in said
    assert "artifact: 30 of 30 images" in said


def test_the_same_seed_gives_the_same_interval(
    same: tuple[Compared, list[str]], aerial: Path, bundle: Artifact, data: DetectionSet
) -> None:
    again = compare(str(aerial), bundle.path, data, FAST)
    assert again.comparison == same[0].comparison


# A worse one


def test_a_worse_artifact_is_noticed(worse: Compared) -> None:
    comparison = worse.comparison
    assert comparison.difference.ap50_95.estimate < -0.02
    assert comparison.difference.ap50_95.high < 0
    assert comparison.equivalence.outcome in ("fail", "not enough data")
    assert min(one.worst_snr for one in comparison.agreement) < 40


def test_the_images_that_changed_most_come_first(worse: Compared) -> None:
    distances = [image.distance for image in worse.comparison.changed]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert Path(worse.comparison.changed[0].image).is_file()


def test_what_changed_is_drawn_with_both_panels(worse: Compared, tmp_path: Path) -> None:
    from PIL import Image

    from edgedeploy.cli.compare import _draw

    drawn = _draw(worse, tmp_path / "pictures", 2)
    assert [path.name[:2] for path in drawn] == ["1-", "2-"]
    for path, changed in zip(drawn, worse.comparison.changed, strict=False):
        assert path.stem.endswith(Path(changed.image).stem)
        sheet = Image.open(path)
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))[CAPTION:].astype(int)
        small = np.asarray(Image.open(changed.image).convert("RGB").resize((PANEL, PANEL))).astype(int)
        left, right = pixels[:, :PANEL], pixels[:, -PANEL:]
        for panel in (left, right):  # the photograph, with something drawn in
            moved = (np.abs(panel - small).max(axis=2) > 0).mean()
            assert 0 < moved < 0.5
        assert (left != right).any()


def test_nothing_is_drawn_where_nothing_changed(same: tuple[Compared, list[str]], tmp_path: Path) -> None:
    from edgedeploy.cli.compare import _draw

    still = replace(
        same[0].comparison, changed=tuple(replace(image, distance=0.0) for image in same[0].comparison.changed)
    )
    assert _draw(replace(same[0], comparison=still), tmp_path / "pictures", 4) == []
    assert _draw(same[0], tmp_path / "pictures", 4) == []
    assert not (tmp_path / "pictures").exists()


# Doubts


def test_an_artifact_of_another_checkpoint_is_doubted(
    aerial: Path, bundle: Artifact, data: DetectionSet, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(aerial, "pt") as opened:
        header = opened.metadata()
    weights = {name: t * 1.001 if t.is_floating_point() else t for name, t in load_file(aerial).items()}
    other = tmp_path / "other.safetensors"
    save_file(weights, other, header)
    doubts = compare(str(other), bundle.path, data.subset(range(4)), FAST).comparison.doubts
    assert len(doubts) == 1
    assert "that of two models" in doubts[0]
    assert str(other) in doubts[0]


def test_calibration_on_the_very_images_is_doubted(aerial: Path, data: DetectionSet, reseal: Reseal) -> None:
    few = data.subset(range(4))
    path = reseal(change=lambda m: replace(m, calibration=CalibrationRecord("scenes", 4, few.digest())))
    doubts = compare(str(aerial), path, few, FAST).comparison.doubts
    assert len(doubts) == 1
    assert "calibrated on these very images" in doubts[0]
    assert compare(str(aerial), path, data.subset(range(4, 8)), FAST).comparison.doubts == ()


def test_an_artifact_that_finds_nothing_is_doubted(aerial: Path, data: DetectionSet, reseal: Reseal) -> None:
    comparison = compare(str(aerial), reseal(noise=1e20), data.subset(range(4)), FAST).comparison
    assert comparison.doubts
    assert comparison.equivalence.outcome != "pass"
    assert comparison.candidate.metric.ap50_95 is not None
    assert comparison.candidate.metric.ap50_95 < 0.01


def test_faults_of_the_data_are_among_the_doubts(aerial: Path, bundle: Artifact, data: DetectionSet) -> None:
    faulty = replace(data.subset(range(4)), faults=("x.txt, line 2: no label.",))
    assert compare(str(aerial), bundle.path, faulty, FAST).comparison.doubts == faulty.faults


# Refusals


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="positive number"):
        Options(margin=margin)


def test_other_classes_are_refused_before_the_checkpoint_is_looked_at(bundle: Artifact, data: DetectionSet) -> None:
    with pytest.raises(UsageError, match="the model has 4, the data set 5"):
        compare("no.pt", bundle.path, replace(data, labels=(*data.labels, "boat")), FAST)


def test_what_is_no_detector_is_refused(data: DetectionSet, reseal: Reseal) -> None:
    with pytest.raises(UsageError, match=r"no detector.*edgedeploy verify"):
        compare("no.pt", reseal(change=lambda manifest: replace(manifest, task=None)), data, FAST)


def test_images_without_objects_are_refused(aerial: Path, bundle: Artifact, data: DetectionSet) -> None:
    empty = [
        replace(s, boxes=s.boxes[:0], classes=s.classes[:0], area=s.area[:0], crowd=s.crowd[:0])
        for s in data.samples[:2]
    ]
    with pytest.raises(UsageError, match="no object"):
        compare(str(aerial), bundle.path, replace(data, samples=tuple(empty)), FAST)
