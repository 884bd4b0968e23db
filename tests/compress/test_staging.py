"""Data for the trainer: what it reads is what was read, and it cannot touch anybody's files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.compress.staging import GREY, Staging, greyed, stage
from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import DetectionSet, Sample, read_detection_set, read_yolo
from edgedeploy.tasks.image import read_image
from edgedeploy.tasks.slices import Slices

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def splits(scenes: Path) -> tuple[DetectionSet, DetectionSet]:
    """Both splits of the rendered scenes."""
    return read_yolo(scenes, "train").subset(range(4)), read_yolo(scenes, "val").subset(range(2))


def test_what_is_staged_reads_back_as_it_was(splits: tuple[DetectionSet, DetectionSet], tmp_path: Path) -> None:
    """Images, order, boxes and classes of both splits."""
    staged = stage(*splits, tmp_path / "data")
    assert staged.faults == ()
    assert staged.yaml == tmp_path / "data" / "data.yaml"
    for split, before in zip(("train", "val"), splits, strict=True):
        after = read_detection_set(staged.yaml, split)
        assert after.labels == before.labels == staged.labels
        for one, other in zip(before.samples, after.samples, strict=True):
            assert other.image.is_symlink()
            assert other.image.resolve() == one.image.resolve()
            order = [np.lexsort(np.column_stack([s.classes, np.round(s.boxes)]).T) for s in (one, other)]
            np.testing.assert_allclose(one.boxes[order[0]], other.boxes[order[1]], atol=1e-4)
            assert (one.classes[order[0]] == other.classes[order[1]]).all()


def test_staging_again_changes_nothing_and_other_data_are_refused(
    splits: tuple[DetectionSet, DetectionSet], tmp_path: Path
) -> None:
    """The same data leave what a trainer put there; other data or settings, or a stranger's folder, are refused."""
    folder = tmp_path / "data"
    first = stage(*splits, folder)
    (folder / "labels" / "train.cache").write_text("the trainer's")
    assert stage(*splits, folder).digest == first.digest
    assert (folder / "labels" / "train.cache").is_file()
    with pytest.raises(UsageError, match="already holds other data"):
        stage(splits[1], splits[0], folder)
    with pytest.raises(UsageError, match="already holds other data"):
        stage(*splits, folder, Staging(grey=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="already holds something else"):
        stage(*splits, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_links_that_lead_nowhere_are_made_again(scenes: Path, tmp_path: Path) -> None:
    """A data set that moved is the same data."""
    data = read_yolo(scenes, "val").subset(range(2))
    before = _moved(data, tmp_path / "before")
    first = stage(before, before, tmp_path / "data")
    (tmp_path / "before").rename(tmp_path / "after")
    after = _moved(data, tmp_path / "after")
    assert stage(after, after, tmp_path / "data").digest == first.digest
    assert len(read_yolo(first.yaml, "train").faults) == 0


def _moved(data: DetectionSet, folder: Path) -> DetectionSet:
    folder.mkdir(exist_ok=True)
    for sample in data.samples:
        (folder / sample.image.name).write_bytes(sample.image.read_bytes())
    moved = tuple(dataclasses.replace(sample, image=folder / sample.image.name) for sample in data.samples)
    return dataclasses.replace(data, samples=moved)


def test_equal_names_crowds_and_unfinished_images(tmp_path: Path) -> None:
    """Two images of one name, one of them a JPEG that a trainer would rewrite; a crowd; a class nobody drew."""
    samples = []
    for index in range(2):
        path = tmp_path / f"{index}" / "same.JPG"
        path.parent.mkdir()
        Image.fromarray(np.full((32, 48, 3), 100 * index, np.uint8)).save(path, "JPEG")
        boxes = np.array([[0, 0, 48, 32], [1, 2, 11, 12]], np.float32)
        crowd = np.array([True, False])
        samples.append(Sample(path, (32, 48), boxes, np.array([1, 0]), np.ones(2), crowd))
    with samples[1].image.open("ab") as stream:
        stream.write(b"a maker's note")
    before = samples[1].image.read_bytes()
    data = DetectionSet("mine", ("car", "bus", "tuk-tuk"), tuple(samples), "train")
    staged = stage(data, data.subset([0]), tmp_path / "data")
    assert "bus, tuk-tuk" in staged.faults[0]
    assert "1 images are in training and validation" in staged.faults[1]
    images = sorted((tmp_path / "data" / "images" / "train").iterdir())
    assert [image.is_symlink() for image in images] == [True, False]
    assert [read_image(image)[0, 0, 0] for image in images] == [0, 100]
    label = tmp_path / "data" / "labels" / "train" / "1.txt"
    assert label.read_text().splitlines() == ["0 0.125000000 0.218750000 0.208333333 0.312500000"]
    images[1].write_bytes(b"rewritten")
    assert samples[1].image.read_bytes() == before


def test_ignored_regions_become_grey_except_where_an_object_is(tmp_path: Path) -> None:
    """In training images only, and only in the copy."""
    path = tmp_path / "street.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
    box, region = np.array([[10, 10, 20, 20]], np.float32), np.array([[0, 0, 15.5, 40]], np.float32)
    sample = Sample(path, (40, 40), box, np.zeros(1, np.int64), np.ones(1), np.zeros(1, np.bool_), region)
    data = DetectionSet("mine", ("car",), (sample,), "train")
    staged = stage(data, data, tmp_path / "data", Staging(grey=True))
    expected = np.zeros((40, 40), np.int64)
    expected[:, :16] = GREY
    expected[10:20, 10:20] = 0
    painted = read_image(staged.folder / "images" / "train" / "0.png")
    assert (painted[..., 0] == expected).all()
    assert (greyed(read_image(path), sample) == painted).all()
    assert read_image(path).max() == 0
    assert (staged.folder / "images" / "val" / "0.png").is_symlink()


def test_training_images_in_tiles(splits: tuple[DetectionSet, DetectionSet], tmp_path: Path) -> None:
    """Every tile is its part of the image, with its objects; what is said is what is on disk; validation stays."""
    train, val = splits[0].subset([0]), splits[1]
    options = Staging(tiles=Slices(200, 0.2))
    staged = stage(train, val, tmp_path / "data", options)
    windows = options.tiles.windows(train.samples[0].size) if options.tiles else ()
    assert len(staged.train) == len(windows) == 4
    whole = read_image(train.samples[0].image)
    for (left, top, right, bottom), tile in zip(windows, staged.train.samples, strict=True):
        assert (read_image(tile.image) == whole[top:bottom, left:right]).all()
    read = read_yolo(staged.yaml, "train")
    assert [sample.image for sample in read.samples] == [sample.image for sample in staged.train.samples]
    assert read.instances == staged.train.instances >= train.instances
    assert staged.val is val
    again = stage(train, val, tmp_path / "data", options)
    assert again.train.digest() == staged.train.digest()


def test_classes_have_to_agree(splits: tuple[DetectionSet, DetectionSet], tmp_path: Path) -> None:
    """Class 0 of training must not be class 1 of validation."""
    other = dataclasses.replace(splits[1], labels=tuple(reversed(splits[1].labels)))
    with pytest.raises(UsageError, match="different classes"):
        stage(splits[0], other, tmp_path / "data")


def test_the_trainer_reads_what_was_staged(splits: tuple[DetectionSet, DetectionSet], tmp_path: Path) -> None:
    """Ultralytics' own data set class finds every image and box, and keeps its cache in our folder."""
    from edgedeploy.models.yolo import quietly

    pytest.importorskip("ultralytics")
    with quietly():
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset
    staged = stage(*splits, tmp_path / "a [folder] with images")
    described = check_det_dataset(str(staged.yaml), autodownload=False)
    read = YOLODataset(img_path=described["train"], data=described, imgsz=64, augment=False)
    assert [os.path.realpath(path) for path in read.im_files] == [
        str(sample.image.resolve()) for sample in splits[0].samples
    ]
    for label, sample in zip(read.labels, splits[0].samples, strict=True):
        assert sorted(label["cls"][:, 0]) == sorted(sample.classes)
    assert list(splits[0].samples[0].image.parents[2].rglob("*.cache")) == []
    assert list(staged.folder.rglob("*.cache")) == [staged.folder / "labels" / "train.cache"]
