"""Data sets as VisDrone-DET lays them out: per split a folder with images/ and annotations/, one text file per image.

A line is ``x,y,w,h,score,category,truncation,occlusion``: the left upper corner and the sides in pixels. Category 0 is
an ignored region, 1 to 10 are `LABELS`, 11 is "others" and no class; an object with a score of 0 does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.tasks import samples
from edgedeploy.tasks.image import SUFFIXES, image_size
from edgedeploy.tasks.samples import DetectionSet, Sample

LABELS = (
    "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor",
)  # fmt: skip

_REGION, _OTHERS = 0, len(LABELS) + 1
_ENDINGS = {"train": ("train",), "val": ("val",), "test": ("test-dev", "test")}
_SAID = 5  # faults of one file that are told one by one


def is_visdrone(folder: Path) -> bool:
    """Whether a folder is one split of VisDrone, or has such folders in it."""
    return _is_split(folder) or any(_is_split(child) for child in _folders(folder))


def read_visdrone(folder: Path, split: str = "val") -> DetectionSet:
    """One split: ``folder`` itself where images/ and annotations/ are in it, else its subfolder ``...-train`` etc.

    Ignored regions become `Sample.ignored`; "others" and what has a score of 0 are left out. A line that cannot be
    read is left out and named in ``faults`` with file and line; so is an image without a file of annotations.

    Raises:
        UsageError: there is no such split, or nothing in it can be used.
        Unavailable: no reader of images is here.
    """
    if not _is_split(folder):
        there = [child for child in _folders(folder) if _is_split(child)]
        endings = _ENDINGS.get(split, (split,))
        chosen = [child for end in endings for child in there if child.name == end or child.name.endswith(f"-{end}")]
        if not chosen:
            names = [child.name for child in there]
            raise UsageError(f"{folder}: there is no split '{split}' in it.{did_you_mean(split, names)}")
        folder = chosen[0]
    else:
        name = folder.resolve().name
        split = next((key for key, ends in _ENDINGS.items() if name.endswith(ends)), name)
    images = sorted(path for path in (folder / "images").rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise UsageError(f"{folder / 'images'} has no images ({', '.join(SUFFIXES)}).")
    return read_images(folder.resolve().name, images, split)


def read_images(name: str, images: Iterable[Path], split: str) -> DetectionSet:
    """The set of these images, each with its file of annotations in ``annotations`` beside ``images``.

    Raises:
        UsageError: nothing can be used.
        Unavailable: no reader of images is here.
    """
    read: list[Sample] = []
    faults: list[str] = []
    clipped: list[Path] = []
    dropped: list[Path] = []
    for image in images:
        try:
            sample, out, empty = _sample(image, faults)
        except UsageError as error:
            faults.append(str(error))
            continue
        read.append(sample)
        clipped += [image] * out
        dropped += [image] * empty
    return samples.finished(name, LABELS, read, split, faults + samples.corrected(clipped, dropped))


def annotation_file(image: Path) -> Path:
    """Where the annotations of an image are: ``.../images/x.jpg`` has ``.../annotations/x.txt``."""
    before, found, after = image.as_posix().rpartition("/images/")
    return Path(f"{before}/annotations/{after}" if found else image.as_posix()).with_suffix(".txt")


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(child for child in folder.iterdir() if child.is_dir())


def _is_split(folder: Path) -> bool:
    annotations = folder / "annotations"
    return (folder / "images").is_dir() and annotations.is_dir() and any(annotations.rglob("*.txt"))


def _sample(image: Path, faults: list[str]) -> tuple[Sample, int, int]:
    """The sample, how many boxes were clipped, and how many had no area; faults of lines are added."""
    rows = _rows(annotation_file(image), faults)
    size = image_size(image)
    corners = rows[:, :4].copy()
    corners[:, 2:] += corners[:, :2]
    boxes, out, sound = samples.inside(corners, size)
    category, counts = rows[:, 5], rows[:, 4] != 0
    region = sound & (category == _REGION)
    objects = counts & (category != _REGION) & (category != _OTHERS)
    kept = objects & sound
    sample = Sample(
        image,
        size,
        boxes[kept].astype(np.float32),
        category[kept].astype(np.int64) - 1,
        (boxes[kept, 2:] - boxes[kept, :2]).prod(axis=1),
        np.zeros(int(kept.sum()), np.bool_),
        boxes[region].astype(np.float32),
    )
    return sample, int((out & kept).sum()), int((objects & ~sound).sum())


def _rows(path: Path, faults: list[str]) -> npt.NDArray[np.float64]:
    """(n, 6): x, y, w, h, score, category.

    Raises:
        UsageError: the file is missing or no text.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist, so that nobody knows what is in its image.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    rows, wrong = [], 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except UsageError as error:
            wrong += 1
            if wrong <= _SAID:
                faults.append(f"{path}:{number}: {error}")
    if wrong > _SAID:
        faults.append(f"{path}: {wrong - _SAID} more lines cannot be used.")
    return np.array(rows, np.float64).reshape(-1, 6)


def _row(line: str) -> list[float]:
    fields = line.strip().rstrip(",").split(",")
    shown = repr(line.strip()[:60])
    if len(fields) != 8:
        raise UsageError(
            f"expected 8 fields x,y,w,h,score,category,truncation,occlusion, found {len(fields)} in {shown}."
        )
    try:
        row = [float(field) for field in fields[:6]]
    except ValueError:
        raise UsageError(f"{shown} is not a row of numbers.") from None
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in row):
        raise UsageError(f"{shown} has a number that no image has.")
    if row[5] not in range(_OTHERS + 1):
        raise UsageError(f"category {fields[5].strip()} is not one of 0 to {_OTHERS}.")
    return row
