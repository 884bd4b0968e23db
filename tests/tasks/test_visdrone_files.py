"""VisDrone's own layout, made of rendered scenes: what is read is what was written, and bad lines are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks import visdrone_files
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set, read_yolo
from edgedeploy.tasks.visdrone_files import LABELS, read_visdrone

Image = pytest.importorskip("PIL.Image")

REGIONS = ("10,20,30,40,0,0,0,0", "300,0,100,15,1,0,0,0")
LEFT_OUT = ("5,5,20,20,1,11,0,0", "50,60,20,20,0,4,0,1", "60,60,0,9,1,4,0,0")


@pytest.fixture(scope="module")
def plain(scenes: Path) -> DetectionSet:
    """Four scenes as they were read from labels of YOLO."""
    return read_yolo(scenes).subset(range(4))


@pytest.fixture(scope="module")
def root(plain: DetectionSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in VisDrone's layout: in each image two ignored regions, and three rows that are no objects."""
    root = tmp_path_factory.mktemp("visdrone")
    for split, chosen in (("train", slice(0, 3)), ("val", slice(3, 4))):
        folder = root / f"VisDrone2019-DET-{split}"
        (folder / "images").mkdir(parents=True)
        (folder / "annotations").mkdir()
        for sample in plain.samples[chosen]:
            (folder / "images" / sample.image.name).write_bytes(sample.image.read_bytes())
            corners = np.round(sample.boxes).astype(int)
            rows = [
                f"{x},{y},{right - x},{bottom - y},1,{kind + 4},0,0"
                for (x, y, right, bottom), kind in zip(corners.tolist(), sample.classes, strict=True)
            ]
            rows[0] += ","  # as some rows of the real files end
            lines = "\r\n".join([*REGIONS, *rows, *LEFT_OUT, ""])
            (folder / "annotations" / f"{sample.image.stem}.txt").write_text(lines, encoding="utf-8-sig")
    return root


def test_a_split_reads_as_what_was_written(root: Path, plain: DetectionSet) -> None:
    """From the folder with all splits, from one split, and through a data.yaml that points there."""
    names = "".join(f"  {index}: {label}\n" for index, label in enumerate(LABELS))
    text = f"train: VisDrone2019-DET-train/images\nval: VisDrone2019-DET-val\nnames:\n{names}"
    (root / "visdrone.yaml").write_text(text)
    whole = read_detection_set(root, "train")
    one = read_detection_set(root / "VisDrone2019-DET-train")
    listed = read_detection_set(root / "visdrone.yaml", "train")
    assert whole.labels == LABELS
    assert [data.split for data in (whole, one, listed)] == ["train"] * 3
    assert whole.digest() == one.digest() == listed.digest()
    assert len(read_detection_set(root / "visdrone.yaml")) == len(read_detection_set(root)) == 1
    for read, sample in zip(whole.samples, plain.samples, strict=False):
        np.testing.assert_allclose(read.boxes, sample.boxes, atol=0.51)
        assert (read.classes == sample.classes + 3).all()
        np.testing.assert_array_equal(read.ignored, [[10, 20, 40, 60], [300, 0, 320, 15]])
        np.testing.assert_allclose(read.area, (read.boxes[:, 2:] - read.boxes[:, :2]).prod(axis=1))
    assert whole.faults == ("3 boxes have no area inside their image and were left out, the first in 000000.png.",)


def test_ignored_regions_are_part_of_the_digest(root: Path, plain: DetectionSet) -> None:
    """And data without any have the digest that they always had."""
    import dataclasses

    data = read_visdrone(root, "val")
    bare = tuple(dataclasses.replace(sample, ignored=np.empty((0, 4), np.float32)) for sample in data.samples)
    assert dataclasses.replace(data, samples=bare).digest() != data.digest()
    assert plain.subset([0]).digest() == plain.subset([0]).digest()


def test_bad_lines_are_named_and_the_rest_is_read(root: Path, tmp_path: Path) -> None:
    """With file and line; after five of a file their number."""
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "images" / f"{name}.png")
    bad = [
        "1,2,3",
        "x,1,2,3,1,4,0,0",
        "1,2,nan,3,1,4,0,0",
        "1,2,3,3,1,12,0,0",
        "1,2,3,3,1,4.5,0,0",
        "1,2,1e300,3,1,4,0,0",
    ]
    (folder / "annotations" / "a.txt").write_text("\n".join(["1,2,5,6,1,4,0,0", "", *bad]))
    (folder / "annotations" / "b.txt").write_bytes(b"\xff\xfe\x00")
    data = read_visdrone(folder)
    assert [sample.boxes.tolist() for sample in data.samples] == [[[1, 2, 6, 8]]]
    said = "\n".join(data.faults)
    for words in (
        "a.txt:3: expected 8 fields",
        "a.txt:4: 'x,1,2,3,1,4,0,0' is not a row of numbers",
        "a.txt:5: '1,2,nan,3,1,4,0,0' has a number that no image has",
        "a.txt:6: category 12 is not one of 0 to 11",
        "a.txt:7: category 4.5",
        "a.txt: 1 more lines",
        "b.txt cannot be read",
        "c.txt does not exist",
    ):
        assert words in said
    with pytest.raises(UsageError, match="no split 'val' in it"):
        (root / "VisDrone2019-DET-val").rename(root / "elsewhere")
        try:
            read_visdrone(root)
        finally:
            (root / "elsewhere").rename(root / "VisDrone2019-DET-val")


def test_a_yaml_with_other_names_is_refused(root: Path) -> None:
    """Category 4 is a car, whatever a file calls it."""
    path = root / "other.yaml"
    path.write_text("val: VisDrone2019-DET-val/images\nnames: [car, bus]\n")
    with pytest.raises(UsageError, match="'names' has to be pedestrian"):
        read_detection_set(path)


FIELD = st.one_of(st.integers(-5, 60), st.floats(), st.text(max_size=4))
LINE = st.one_of(st.text(), st.lists(FIELD, min_size=6, max_size=9).map(lambda row: ",".join(map(str, row))))


@given(st.lists(LINE, max_size=8))
def test_no_text_breaks_the_reader(lines: list[str]) -> None:
    """A line is a row of six numbers, or a fault; nothing else happens."""

    class Text:
        def read_text(self, encoding: str) -> str:
            return "\n".join(lines)

        def __str__(self) -> str:
            return "a.txt"

    faults: list[str] = []
    rows = visdrone_files._rows(Text(), faults)  # type: ignore[arg-type]
    assert np.isfinite(rows).all()
    assert set(rows[:, 5]) <= set(range(12))
    filled = sum(1 for line in "\n".join(lines).splitlines() if line.strip())
    assert len(rows) + len(faults) <= filled + 1
    assert (len(rows) == filled) == (not faults)
