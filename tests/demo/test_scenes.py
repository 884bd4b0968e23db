"""Synthetic scenes: the same bytes from a seed, boxes that fit what is drawn, data sets that read back."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgedeploy.demo import paint as painting
from edgedeploy.demo.layout import Layout, Vehicle, draw_layout, touch
from edgedeploy.demo.scenes import LABELS, VISIBLE, clip, render, seeds, truth, write_dataset
from edgedeploy.errors import UsageError

Image = pytest.importorskip("PIL.Image")
SEEDS = st.integers(0, 2**40)


def digest(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@given(seed=SEEDS, size=st.sampled_from([96, 160, 320]))
@settings(max_examples=12, deadline=None)
def test_a_scene_is_well_formed_and_repeats(seed: int, size: int) -> None:
    first, again = render(seed, size), render(seed, size)
    assert first.image.shape == (size, size, 3)
    assert first.image.dtype == np.uint8
    assert first.boxes.dtype == np.float32
    assert first.boxes.shape == (len(first.classes), 4)
    assert first.classes.dtype == np.int64
    assert np.all((first.classes >= 0) & (first.classes < len(LABELS)))
    assert np.all((first.boxes >= 0) & (first.boxes <= size))
    assert np.all(first.boxes[:, 2:] - first.boxes[:, :2] > 1)
    assert digest(first.image) == digest(again.image)
    assert digest(first.boxes) == digest(again.boxes)
    assert digest(first.classes) == digest(again.classes)


def test_scenes_of_different_seeds_differ() -> None:
    assert len({digest(render(seed, 96).image) for seed in range(8)}) == 8


def test_every_class_and_many_headings_occur() -> None:
    vehicles = [v for seed in range(40) for v in draw_layout(seed, 320, 320).vehicles]
    assert {v.kind for v in vehicles} == set(range(len(LABELS)))
    eighths = np.array([v.heading for v in vehicles]) % (2 * np.pi) // (np.pi / 4)
    assert len(np.unique(eighths)) == 8


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_vehicles_do_not_stand_in_one_another(seed: int) -> None:
    outlines = [v.outline() for v in draw_layout(seed, 200, 260).vehicles]
    assert not any(touch(a, b) for i, a in enumerate(outlines) for b in outlines[:i])


def bare(layout: Layout, vehicles: tuple[Vehicle, ...]) -> Layout:
    """The same ground at noon, without trees to hide a vehicle or to be hidden."""
    return dataclasses.replace(layout, vehicles=vehicles, trees=np.empty((0, 3)), sun=np.zeros(2))


@pytest.mark.parametrize("seed", [3, 11])
def test_a_box_is_tight_around_the_pixels_of_its_vehicle(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "_camera", lambda image, rng: np.asarray(image))
    monkeypatch.setattr(painting, "_shade", lambda canvas, *_: canvas)
    layout = draw_layout(seed, 200, 240)
    empty = painting.paint(bare(layout, ()))
    checked = 0
    for vehicle in layout.vehicles:
        alone = bare(layout, (vehicle,))
        boxes, _ = truth(alone)
        if not len(boxes):
            continue
        # A box in whole pixels is up to one larger, and Pillow fills the pixels under a polygon's edge.
        drawn = np.any(painting.paint(alone) != empty, axis=2)
        rows, columns = np.nonzero(drawn)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], found, atol=1.25)
        checked += 1
    assert checked >= 4


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_vehicle_is_annotated_when_enough_of_it_is_inside(seed: int) -> None:
    layout = draw_layout(seed, 160, 160)
    for vehicle in layout.vehicles:
        whole, inside = vehicle.outline(), clip(vehicle.outline(), np.array([160.0, 160.0]))
        share = area(inside) / area(whole)
        if abs(share - VISIBLE) > 0.1:  # the count of grid points is not exact at the threshold
            assert len(truth(bare(layout, (vehicle,)))[0]) == int(share > VISIBLE)


def area(polygon: NDArray[np.float64]) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_a_tree_over_a_vehicle_takes_its_annotation() -> None:
    layout = draw_layout(11, 200, 240)
    vehicle = next(v for v in layout.vehicles if len(truth(bare(layout, (v,)))[0]))
    crown = np.array([[vehicle.x, vehicle.y, vehicle.length * vehicle.scale]])
    assert len(truth(dataclasses.replace(bare(layout, (vehicle,)), trees=crown))[0]) == 0


@given(
    points=st.lists(st.tuples(st.floats(-50, 150), st.floats(-50, 150)), min_size=3, max_size=3),
)
def test_clip_keeps_what_is_inside(points: list[tuple[float, float]]) -> None:
    triangle, extent = np.array(points), np.array([100.0, 80.0])
    kept = clip(triangle, extent)
    assert np.all((kept >= -1e-9) & (kept <= extent + 1e-9))
    assert area(kept) <= area(triangle) + 1e-6
    if np.all((triangle >= 0) & (triangle <= extent)):
        np.testing.assert_array_equal(kept, triangle)


def test_clip_of_a_square_over_a_corner() -> None:
    square = np.array([(-1.0, -1.0), (3.0, -1.0), (3.0, 3.0), (-1.0, 3.0)])
    assert area(clip(square, np.array([10.0, 2.0]))) == pytest.approx(6.0)


def test_train_and_val_share_no_seed() -> None:
    train = {n for seed in (0, 1, 7) for n in seeds("train", 500, seed)}
    val = {n for seed in (0, 1, 7) for n in seeds("val", 500, seed)}
    assert len(train) == len(val) == 1500
    assert not train & val


def test_a_data_set_reads_back(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "scenes", train=2, val=3, size=128, seed=5)
    assert path == tmp_path / "scenes" / "data.yaml"
    record = yaml.safe_load(path.read_text())
    assert record == {
        "path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(LABELS)),
    }  # fmt: skip
    for split, count in (("train", 2), ("val", 3)):
        images = sorted((path.parent / record[split]).iterdir())
        assert len(images) == count
        for image, seed in zip(images, seeds("train" if split == "train" else "val", count, 5), strict=True):
            scene = render(seed, 128)
            np.testing.assert_array_equal(np.asarray(Image.open(image)), scene.image)
            label = path.parent / "labels" / split / f"{image.stem}.txt"
            rows = np.array([line.split() for line in label.read_text().splitlines()], float).reshape(-1, 5)
            np.testing.assert_array_equal(rows[:, 0], scene.classes)
            middle, half = rows[:, 1:3] * 128, rows[:, 3:] * 64
            np.testing.assert_allclose(np.hstack([middle - half, middle + half]), scene.boxes, atol=1e-4)
            assert np.all((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1))


def test_a_data_set_repeats_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, train=1, val=1, size=96)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_interrupted_data_set_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seed: int, size: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgedeploy.demo.scenes.render", stop)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path / "scenes", train=1, val=1, size=96)
    assert not (tmp_path / "scenes").exists()
    assert write_dataset(tmp_path / "scenes", train=1, val=1, size=96).is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_dataset(tmp_path, train=1, val=1, size=96)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(("seed", "size"), [(-1, 320), (0, 63)])
def test_a_scene_out_of_range_is_refused(seed: int, size: int) -> None:
    with pytest.raises(UsageError, match="give a"):
        render(seed, size)
