"""Synthetic aerial scenes with exact boxes, and data sets of them in the YOLO layout."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedeploy.demo.layout import LABELS, Layout, Points, draw_layout
from edgedeploy.demo.paint import paint
from edgedeploy.errors import Unavailable, UsageError

__all__ = ["LABELS", "VISIBLE", "Rendered", "Scene", "render", "seeds", "truth", "write_dataset"]

VISIBLE = 0.4
"""A vehicle is annotated when at least this share of it is inside the image and not under a tree."""

_SPLIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and what is in it.

    Attributes:
        image: RGB uint8 (height, width, 3).
        boxes: float32 (n, 4), corners x1 y1 x2 y2 in pixels, clipped to the image.
        classes: int64 (n,), indices into `LABELS`.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


def render(seed: int, size: int = 320) -> Scene:
    """The scene of `seed` on `size` x `size` pixels; the same arguments give the same bytes.

    A larger size shows more ground, not larger vehicles.

    Raises:
        UsageError: `seed` is negative or `size` is below 64 pixels.
        Unavailable: Pillow is not installed.
    """
    if seed < 0:
        raise UsageError(f"A scene's seed was {seed}: give a number from 0 up")
    if size < 64:
        raise UsageError(f"A scene of {size} pixels is too small to show a vehicle: give a size from 64 up")
    layout = draw_layout(seed, size, size)
    boxes, classes = truth(layout)
    return Scene(paint(layout), boxes, classes)


def truth(layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (n, 4) and classes (n,) of the vehicles of which at least `VISIBLE` can be seen.

    A box is the tightest around the part of the vehicle's outline inside the image; a tree that hides
    a part of the vehicle does not make its box smaller.
    """
    extent = np.array([layout.width, layout.height], dtype=np.float64)
    boxes: list[Points] = []
    classes: list[int] = []
    for vehicle in layout.vehicles:
        points = vehicle.grid()
        seen = np.all((points >= 0) & (points < extent), axis=1)
        if len(layout.trees):
            away = np.hypot(*(points[:, None] - layout.trees[None, :, :2]).transpose(2, 0, 1))
            seen &= np.all(away > layout.trees[:, 2], axis=1)
        if seen.mean() >= VISIBLE:
            inside = clip(vehicle.outline(), extent)
            boxes.append(np.concatenate([inside.min(0), inside.max(0)]))
            classes.append(vehicle.kind)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)


def clip(polygon: Points, extent: Points) -> Points:
    """The part (m, 2) of a convex `polygon` (n, 2) between 0 and `extent` (2,) on both axes.

    Source: I. Sutherland and G. Hodgman, Reentrant polygon clipping, CACM 17(1), 1974.
    """
    for axis in (0, 1):
        for limit, sign in ((0.0, 1.0), (float(extent[axis]), -1.0)):
            kept: list[Points] = []
            for here, after in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                a, b = sign * (here[axis] - limit), sign * (after[axis] - limit)
                if a >= 0:
                    kept.append(here)
                if (a < 0) != (b < 0):
                    cut = here + (after - here) * (a / (a - b))
                    cut[axis] = limit
                    kept.append(cut)
            polygon = np.array(kept).reshape(-1, 2)
    return polygon


def seeds(split: Literal["train", "val"], count: int, seed: int = 0) -> range:
    """Seeds of the first `count` scenes of a split; no train split shares one with any val split.

    Raises:
        UsageError: `count` is not between 0 and one million, or `seed` is negative.
    """
    if not 0 <= count <= _SPLIT or seed < 0:
        raise UsageError(
            f"{count} scenes of seed {seed} were asked for: give 0 to {_SPLIT} scenes and a seed from 0 up"
        )
    first = 2 * _SPLIT * seed + (_SPLIT if split == "val" else 0)
    return range(first, first + count)


class Rendered(Sequence[NDArray[np.uint8]]):
    """Images of ``count`` held-out scenes, each rendered when it is asked for."""

    def __init__(self, count: int, size: int = 320) -> None:
        self._seeds, self._size = seeds("val", count), size

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: Any) -> Any:
        return render(self._seeds[index], self._size).image


def write_dataset(directory: Path, *, train: int = 64, val: int = 64, size: int = 320, seed: int = 0) -> Path:
    """Write `train` and `val` scenes as PNG with YOLO labels; returns the path of `data.yaml`.

    The layout is images/{train,val}/N.png, labels/{train,val}/N.txt with lines `class cx cy w h` as
    shares of the image, and data.yaml. All is written beside `directory` and renamed into place, so a
    data set that was interrupted never stands under its name.

    Raises:
        UsageError: `directory` exists and is not empty, or a count, the size or the seed is out of range.
        Unavailable: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise Unavailable.extra("Pillow, which draws the scenes,", "images") from error

    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} already exists and is not an empty folder: delete it or name another")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, chosen in (("train", seeds("train", train, seed)), ("val", seeds("val", val, seed))):
        images, labels = partial / "images" / split, partial / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number, one in enumerate(chosen):
            scene = render(one, size)
            Image.fromarray(scene.image).save(images / f"{number:06d}.png")
            (labels / f"{number:06d}.txt").write_text(_lines(scene), encoding="utf-8", newline="\n")
    names = "".join(f"  {index}: {label}\n" for index, label in enumerate(LABELS))
    text = f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (partial / "data.yaml").write_text(text, encoding="utf-8", newline="\n")
    if directory.exists():
        directory.rmdir()  # empty, as checked above; a rename onto a folder is refused on Windows
    partial.replace(directory)
    return directory / "data.yaml"


def _lines(scene: Scene) -> str:
    height, width = scene.image.shape[:2]
    low, high = np.split(scene.boxes.astype(np.float64) / (width, height, width, height), 2, axis=1)
    shares = np.hstack([(low + high) / 2, high - low])
    rows = zip(scene.classes.tolist(), shares.tolist(), strict=True)
    return "".join(f"{kind} " + " ".join(f"{v:.7f}" for v in row) + "\n" for kind, row in rows)
