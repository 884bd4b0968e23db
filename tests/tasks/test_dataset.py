"""Data sets as people have them: well-formed, sloppy and broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import DetectionSet, match_labels, read_coco, read_detection_set, read_yolo

pytest.importorskip("yaml")
PIL = pytest.importorskip("PIL.Image")

BOX = "0 0.5 0.5 0.2 0.4\n"
MakeYolo = Callable[..., Path]


def put_image(path: Path, height: int = 50, width: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (width, height)).save(path)


@pytest.fixture
def make_yolo(tmp_path: Path) -> MakeYolo:
    """Writes a data set of images/val/N.png with the given label files, and its data.yaml."""

    def make(*labels: str | None, yaml: str = "path: .\nval: images/val\nnames: [cat, dog]\n") -> Path:
        for number, text in enumerate(labels):
            put_image(tmp_path / f"set/images/val/{number}.png")
            label = tmp_path / f"set/labels/val/{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                label.write_text(text)
        path = tmp_path / "set/data.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml)
        return path

    return make


def test_boxes_become_pixels(make_yolo: MakeYolo) -> None:
    data = read_detection_set(make_yolo(BOX + "1 0.25 0.25 0.5 0.5\n", None, ""))
    assert (data.name, data.split, data.labels, data.faults) == ("set", "val", ("cat", "dog"), ())
    assert (len(data), data.instances) == (3, 2)
    first = data.samples[0]
    assert first.size == (50, 100)
    assert first.boxes == pytest.approx(np.array([[40, 15, 60, 35], [0, 0, 50, 25]]))
    assert first.boxes.dtype == np.float32
    assert first.classes.tolist() == [0, 1]
    assert first.area == pytest.approx([400, 1250])
    assert not first.crowd.any()
    assert [len(sample.boxes) for sample in data.samples[1:]] == [0, 0]
    assert data.samples[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\nval: images/val\nnames: [cat, dog]",
        "val: images/val\nnames: {0: cat, 1: dog}\nnc: 2",
        "path: gone/away\nval: [images/val]\nnames: {1: dog, 0: cat}",
        "path: set\nval: images/val/\nnames:\n- cat\n- dog",
        "val: ../images/val\nnames: [cat, dog]",
        "validation: images\nnames: [cat, dog]",
        "val: list.txt\nnames: [cat, dog]",
        "val: images/val/0.png\nnames: [cat, dog]",
        "path: {root}\nval: images/val\nnames: [cat, dog]",
    ],
)
def test_common_forms_of_data_yaml(make_yolo: MakeYolo, yaml: str) -> None:
    path = make_yolo(BOX)
    (path.parent / "list.txt").write_text("./images/val/0.png\n\n")
    path.write_text(yaml.replace("{root}", path.parent.as_posix()))
    data = read_yolo(path)
    assert data.labels == ("cat", "dog")
    assert data.instances == 1


def test_names_may_be_a_number_and_splits_are_told_apart(make_yolo: MakeYolo) -> None:
    path = make_yolo(BOX, yaml="train: images/train\nval: images/val\nnc: 3\n")
    put_image(path.parent / "images/train/a.png")
    put_image(path.parent / "images/train/b.png")
    (path.parent / "labels/train").mkdir()
    (path.parent / "labels/train/b.txt").write_text(BOX)
    assert read_yolo(path).labels == ("class_0", "class_1", "class_2")
    train = read_detection_set(path, "train")
    assert (len(train), train.instances, train.split) == (2, 1, "train")


def test_a_polygon_gives_its_box(make_yolo: MakeYolo) -> None:
    data = read_yolo(make_yolo("1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.4\n"))
    assert data.samples[0].boxes == pytest.approx(np.array([[10, 10, 30, 30]]))


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("", "no data set"),
        ("- a\n- b", "no data set"),
        ("val: [\n", "not valid YAML"),
        ("val: images/val", "'names' has to be"),
        ("val: images/val\nnames: []", "'names' has to be"),
        ("val: images/val\nnames: {1: a, 2: b}", "keys of 'names'"),
        ("val: images/val\nnames: {a: 0}", "keys of 'names'"),
        ("val: images/val\nnames: [a]\nnc: 2", "'nc' is 2, but 'names' has 1"),
        ("vaal: images/val\nnames: [a]", "no split 'val'. Did you mean 'vaal'"),
        ("val: 5\nnames: [a]", "has to be a path"),
        ("val: images/none\nnames: [a]", "images/none does not exist; looked in"),
        ("val: labels\nnames: [a]", "has no images"),
    ],
)
def test_a_wrong_data_yaml_says_what_is_wrong(make_yolo: MakeYolo, yaml: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_yolo(make_yolo(BOX, yaml=yaml))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("what is this", "line 2: 'what is this' is not a row of numbers"),
        ("0 0.5 0.5 0.2", "line 2: expected 'class x y w h' or a polygon, found 4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", "found 6 columns"),
        ("0.5 0.5 0.5 0.2 0.2", "whole class index"),
        ("0 nan 0.5 0.2 0.2", "finite numbers"),
        ("7 0.5 0.5 0.2 0.2", "class 7 is outside the 2 names"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 is outside"),
        ("0 55 20 10 10", "fractions of the image from 0 to 1, found 55"),
        ("0 -0.5 0.5 0.2 0.2", "fractions of the image"),
    ],
)
def test_a_bad_label_file_is_named_with_its_line(make_yolo: MakeYolo, line: str, said: str) -> None:
    data = read_yolo(make_yolo(BOX, BOX + line + "\n"))
    assert len(data) == 1
    assert len(data.faults) == 1
    assert "labels/val/1.txt" in data.faults[0]
    assert said in data.faults[0]


def test_bytes_that_are_no_text_are_a_fault(make_yolo: MakeYolo) -> None:
    path = make_yolo(BOX, BOX)
    (path.parent / "labels/val/0.txt").write_bytes(b"\xff\xfe\x00")
    assert "0.txt cannot be read" in read_yolo(path).faults[0]


def test_boxes_outside_are_clipped_and_counted(make_yolo: MakeYolo) -> None:
    data = read_yolo(make_yolo("0 0.95 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n" + 2 * "1 0.05 0.5 0.2 0.2\n"))
    assert data.samples[0].boxes == pytest.approx(np.array([[85, 20, 100, 30], [0, 20, 15, 30]]))
    assert data.faults == (
        "2 boxes reach beyond their image and were clipped, the first in 0.png.",
        "1 boxes have no area inside their image and were left out, the first in 0.png.",
        "1 boxes are in a label file twice and were taken once, the first in 0.png.",
    )


def test_an_unreadable_image_is_named_but_not_fatal(make_yolo: MakeYolo) -> None:
    path = make_yolo(BOX, BOX)
    (path.parent / "images/val/0.png").write_bytes(b"no image")
    data = read_yolo(path)
    assert len(data) == 1
    assert "0.png is not an image" in data.faults[0]
    (path.parent / "images/val/1.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"none of its 2 images can be used. The first: .*0\.png"):
        read_yolo(path)


def test_an_empty_data_set_is_refused(make_yolo: MakeYolo) -> None:
    with pytest.raises(UsageError, match=r"none of the 2 images .* expected at .*labels/val/0\.txt"):
        read_yolo(make_yolo(None, None))
    with pytest.raises(UsageError, match="no object is labelled in any of its 2 images"):
        read_yolo(make_yolo("", None))


@given(st.lists(st.text(st.sampled_from("01.e- \n\tnaif"), max_size=40), min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_any_label_text_is_read_or_named(make_yolo: MakeYolo, texts: list[str]) -> None:
    data = read_yolo(make_yolo(BOX, *texts))
    assert len(data) + len([fault for fault in data.faults if "line" in fault]) == len(
        list((data.samples[0].image.parent).glob("*.png"))
    )
    for sample in data.samples:
        assert np.isfinite(sample.boxes).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "height": 50, "width": 100},
        {"id": 3, "file_name": "a.png", "height": 50, "width": 100},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 20, "bbox": [10, 10, 30, 20], "area": 123.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 10, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 20, "name": "dog"}, {"id": 5, "name": "cat"}],
}


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        for name in ("a.png", "b.png"):
            put_image(tmp_path / "set/images/val" / name)
        path = tmp_path / "set/annotations/val.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


def test_coco_ids_become_indices(write_coco: Callable[[object], Path]) -> None:
    data = read_detection_set(write_coco(COCO))
    assert (data.name, data.split, data.labels, data.faults) == ("set", "val", ("cat", "dog"), ())
    assert [sample.image.name for sample in data.samples] == ["a.png", "b.png"]
    b = data.samples[1]
    assert b.boxes.tolist() == [[10, 10, 40, 30], [0, 0, 10, 10]]
    assert b.classes.tolist() == [1, 0]
    assert b.area.tolist() == [123.5, 100]
    assert b.crowd.tolist() == [False, True]
    assert data.instances == 1


def change(**keys: object) -> dict[str, Any]:
    return COCO | keys


def annotation(**keys: object) -> dict[str, Any]:
    return change(annotations=[*COCO["annotations"], COCO["annotations"][0] | keys])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (annotation(image_id=99), r"annotations\[2\]: there is no image with id 99"),
        (annotation(image_id=[1]), "there is no image with id"),
        (annotation(category_id=1), "there is no category with id 1"),
        (annotation(bbox=[1, 2, 3]), "four numbers"),
        (annotation(bbox=[1, 2, 3, "4"]), "four numbers"),
        (annotation(bbox=[1, 2, 3, 10**400]), "four numbers"),
        (annotation(bbox=[90, 40, 30, 30]), "1 boxes reach beyond their image and were clipped, the first in b.png"),
        (annotation(bbox=[10, 10, 0, 5]), "1 boxes have no area"),
        (annotation(bbox=[10, 10, -5, 5]), "1 boxes have no area"),
        (change(images=[*COCO["images"], {"id": 8, "file_name": "c.png"}]), r"c\.png does not exist"),
        (change(images=[COCO["images"][0], COCO["images"][1] | {"width": 99}]), "is 100x50, but .* are for 99x50"),
    ],
)
def test_what_cannot_be_used_is_a_fault(write_coco: Callable[[object], Path], content: object, said: str) -> None:
    data = read_coco(write_coco(content))
    assert data.instances >= 1
    assert len(data.faults) == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(data.faults[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "no COCO annotation file"),
        ({"images": []}, "the list 'images' is empty|'annotations' is missing"),
        (change(images=[]), "'images' is empty"),
        (change(images=[{"id": 1}]), r"images\[0\] has no id or file_name"),
        (change(images=[{"id": 1, "file_name": 5}]), "has to be text"),
        (change(images=[COCO["images"][0]] * 2), "not unique"),
        (change(images=[{"id": None, "file_name": "a.png"}]), "has to be a number"),
        (change(categories=[]), "'categories' is empty"),
        (change(categories=[{"id": "x", "name": "a"}]), "whole number"),
        (change(annotations=[5]), r"annotations\[0\]"),
        (change(annotations=[]), "no object is labelled"),
        (change(images=[{"id": 1, "file_name": "z.png"}]), r"the first is z\.png"),
    ],
)
def test_a_wrong_annotation_file_says_what_is_wrong(
    write_coco: Callable[[object], Path], content: object, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_coco(write_coco(content))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox"]), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(["images", "annotations", "categories"]), st.data(), values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_value_in_the_file_is_read_or_refused(
    write_coco: Callable[[object], Path], where: str, data: st.DataObject, value: object
) -> None:
    entry = dict(COCO[where][0])
    entry[data.draw(st.sampled_from(sorted(entry)))] = value
    try:
        read = read_coco(write_coco(COCO | {where: [entry, *COCO[where][1:]]}))
    except UsageError:
        return
    assert isinstance(read, DetectionSet)


def test_images_are_found_where_the_caller_says(write_coco: Callable[[object], Path], tmp_path: Path) -> None:
    path = write_coco(COCO)
    shutil.move(tmp_path / "set/images/val", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="Give their folder"):
        read_coco(path)
    assert len(read_coco(path, tmp_path / "elsewhere")) == 2


def test_the_digest_is_of_content(write_coco: Callable[[object], Path], tmp_path: Path) -> None:
    first = read_coco(write_coco(COCO))
    assert first.digest() == first.digest() == read_coco(write_coco(COCO)).digest()
    moved = annotation()
    moved["annotations"].pop()
    moved["annotations"][0] = COCO["annotations"][0] | {"bbox": [11, 10, 30, 20]}
    assert read_coco(write_coco(moved)).digest() != first.digest()
    assert first.subset([0]).digest() != first.digest()
    put_image(tmp_path / "set/images/val/a.png", 50, 100)
    PIL.new("RGB", (100, 50), (1, 2, 3)).save(tmp_path / "set/images/val/a.png")
    assert read_coco(tmp_path / "set/annotations/val.json").digest() != first.digest()
    (tmp_path / "set/images/val/a.png").unlink()
    with pytest.raises(UsageError, match=r"a\.png cannot be read"):
        first.subset([0]).digest()


def test_the_front_door_names_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "no.yaml", "does not exist"),
        (tmp_path / "x.csv", "no data"),
    ):
        with pytest.raises(UsageError, match=said):
            read_detection_set(path)


def test_labels_are_matched_by_name() -> None:
    assert match_labels(["a", "b"], ["a", "b"]) == (0, 1)
    assert match_labels(["x", "x"], ["x", "x"]) == (0, 1)
    assert match_labels(["a", "b", "c"], ["c", "a"]) == (1, -1, 0)
    assert match_labels(["Person", "car "], ["car", "person"]) == (1, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (["a", "b"], ["a", "b", "c"], "model has 2, the data set 3; .* is class 2, nothing in the model and 'c' in"),
        (["a", "b", "c"], ["a", "d"], "model has 3, the data set 2; .* is class 1, 'b' in the model and 'd' in"),
        (["a", "motorbike"], ["a", "motorcycle"], "both have 2 classes, but not the same; .* is class 1"),
        (["a", "a", "b"], ["a", "b"], "Wrong number of classes"),
    ],
)
def test_labels_that_do_not_match_are_refused(ours: list[str], theirs: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match_labels(ours, theirs)


def test_real_data_sets(shared: Path) -> None:
    coco = read_detection_set(shared / "data/coco_val128/annotations/instances_val128.json")
    assert (coco.name, len(coco), coco.instances, len(coco.labels), coco.faults) == ("coco_val128", 128, 898, 80, ())
    train = read_detection_set(shared / "data/coco_mini_train80/annotations/instances_train2017.json")
    assert (len(train), train.instances, sum(int(s.crowd.sum()) for s in train.samples)) == (80, 731, 8)
    assert match_labels(train.labels, coco.labels) == tuple(range(80))


def test_both_layouts_of_one_data_set_agree(shared: Path) -> None:
    folder = shared / "data/hit_uav"
    yolo, coco = read_detection_set(folder / "data.yaml"), read_detection_set(folder / "annotations/instances_val.json")
    assert yolo.labels == coco.labels == ("Person", "Car", "Bicycle", "OtherVehicle")
    assert yolo.instances == coco.instances == 2453
    theirs = {sample.image.name: sample for sample in coco.samples}
    for sample in yolo.samples:
        other = theirs[sample.image.name]
        assert sample.size == other.size
        order, others = np.lexsort(sample.boxes.T.round()), np.lexsort(other.boxes.T.round())
        assert np.sort(sample.classes).tolist() == np.sort(other.classes).tolist()
        assert sample.boxes[order].sum(axis=0) == pytest.approx(other.boxes[others].sum(axis=0), abs=0.5)
    assert len(read_detection_set(folder / "data.yaml", "train")) > len(yolo)
