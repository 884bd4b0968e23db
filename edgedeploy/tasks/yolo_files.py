"""Data sets as Ultralytics lays them out: a data.yaml, folders of images, and a text file of boxes per image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable, UsageError, did_you_mean
from edgedeploy.tasks import samples
from edgedeploy.tasks.image import SUFFIXES, image_size
from edgedeploy.tasks.samples import DetectionSet, Sample
from edgedeploy.tasks.visdrone_files import LABELS, annotation_file, read_images

_SPLITS = {"val": ("val", "validation", "valid"), "train": ("train",), "test": ("test",)}
_SLACK = 0.01  # by how much a normalised number may exceed 1 through rounding


def read_yolo(path: Path, split: str = "val") -> DetectionSet:
    """One split of the data set that a data.yaml describes.

    ``path`` in it is taken relative to the file and may be missing; ``names`` is a list or a mapping; a split is a
    folder, a list of folders, or a text file that lists images. The labels of ``.../images/x.jpg`` are in
    ``.../labels/x.txt``: per line ``class x y w h`` (centre and size as fractions of the image) or a polygon, of which
    the bounding box is taken. An image without a label file has no objects. An image or label file that cannot be
    read is left out and named in ``faults``. Where there is no labels folder, but ``.../annotations/x.txt`` as VisDrone
    has it, that is read (see `edgedeploy.tasks.visdrone_files`).

    Raises:
        UsageError: the file cannot be right, the split is missing or empty, or nothing in it can be used.
        Unavailable: PyYAML, or a reader of images, is not here.
    """
    data = _yaml(path)
    labels = _names(data, path)
    images = list(_images(data, path, split))
    if not images:
        raise UsageError(f"{path}: split '{split}' has no images ({', '.join(SUFFIXES)}).")
    if not any(_label_file(image).is_file() for image in images):
        if any(annotation_file(image).is_file() for image in images):
            return _visdrone(path, labels, images, split)
        raise UsageError(
            f"{path}: none of the {len(images)} images of split '{split}' has a label file; the first was expected at "
            f"{_label_file(images[0])}."
        )
    read: list[Sample] = []
    faults: list[str] = []
    clipped: list[Path] = []
    dropped: list[Path] = []
    repeated: list[Path] = []
    for image in images:
        try:
            sample, out, empty, again = _sample(image, len(labels))
        except UsageError as error:
            faults.append(str(error))
            continue
        read.append(sample)
        clipped += [image] * out
        dropped += [image] * empty
        repeated += [image] * again
    return samples.finished(_name(path), labels, read, split, faults + samples.corrected(clipped, dropped, repeated))


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.stem in ("data", "dataset") else path.stem


def _visdrone(path: Path, labels: tuple[str, ...], images: list[Path], split: str) -> DetectionSet:
    """The images with VisDrone's own annotations, whose categories have numbers and no names.

    Raises:
        UsageError: the names of the data.yaml are others than VisDrone's, or nothing can be used.
    """
    if labels != LABELS:
        raise UsageError(
            f"{path}: its images have annotations as VisDrone lays them out, so 'names' has to be "
            f"{', '.join(LABELS)}, in this order."
        )
    return read_images(_name(path), images, split)


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Unavailable("PyYAML is not installed here. Install it with: pip install pyyaml") from None
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no data set: expected keys such as 'val' and 'names'.")
    return data


def _names(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names, number = data.get("names"), data.get("nc")
    if names is None and isinstance(number, int) and number > 0:
        return tuple(f"class_{i}" for i in range(number))
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UsageError(f"{path}: the keys of 'names' have to be 0 to {len(names) - 1}, found {list(names)[:5]}.")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path}: 'names' has to be a list of class names, or a mapping from index to name.")
    if number is not None and number != len(names):
        raise UsageError(f"{path}: 'nc' is {number}, but 'names' has {len(names)} entries.")
    return tuple(str(name) for name in names)


def _images(data: Mapping[str, Any], path: Path, split: str) -> Iterator[Path]:
    """Every image of a split, in a fixed order."""
    key = next((key for key in _SPLITS.get(split, (split,)) if data.get(key)), None)
    if key is None:
        known = [
            name for name in ("train", "val", "test", *data) if data.get(name) and isinstance(data[name], (str, list))
        ]
        raise UsageError(f"{path}: there is no split '{split}'.{did_you_mean(split, known)}")
    value = data[key]
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{path}: '{key}' has to be a path or a list of paths, found {value!r}.")
    for place in _locate(entries, data.get("path"), path):
        if place.is_dir():
            yield from sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif place.suffix.lower() == ".txt":
            yield from _listed(place)
        else:
            yield place


def _locate(entries: list[str], root: object, path: Path) -> list[Path]:
    """The paths of a split under the first root where all of them exist."""
    here = path.resolve().parent
    roots = [here] if root is None else [here / str(root), here, here.parent / str(root)]
    for base in roots:
        # Some exporters write "../valid/images" for a folder that lies beside the file.
        for prefix in ("", "../"):
            places = [base / entry.removeprefix(prefix) for entry in entries]
            if all(place.exists() for place in places):
                return places
    raise UsageError(
        f"{path}: {entries[0]} does not exist; looked in {', '.join(str(base) for base in dict.fromkeys(roots))}."
    )


def _listed(listing: Path) -> Iterator[Path]:
    for line in listing.read_text("utf-8", errors="replace").splitlines():
        if name := line.strip():
            yield listing.parent / name


def _label_file(image: Path) -> Path:
    before, found, after = image.as_posix().rpartition("/images/")
    return Path(f"{before}/labels/{after}" if found else image.as_posix()).with_suffix(".txt")


def _sample(image: Path, classes: int) -> tuple[Sample, int, int, int]:
    """The sample, and how many boxes were clipped, dropped, and there twice."""
    size = image_size(image)
    every = _rows(_label_file(image), classes)
    rows = np.unique(every, axis=0)
    kinds = rows[:, 0].astype(np.int64)
    scale = np.array([size[1], size[0]] * 2, np.float64)
    boxes, out, sound = samples.inside(rows[:, 1:] * scale, size)
    boxes = boxes[sound]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowd = np.zeros(len(boxes), np.bool_)
    sample = Sample(image, size, boxes.astype(np.float32), kinds[sound], area, crowd)
    return sample, int((out & sound).sum()), int((~sound).sum()), len(every) - len(rows)


def _rows(path: Path, classes: int) -> npt.NDArray[np.float64]:
    """(n, 5): class, x1, y1, x2, y2 as fractions of the image.

    Raises:
        UsageError: names the file and the line.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return np.empty((0, 5))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if fields := line.split():
            rows.append(_row(fields, classes, f"{path}, line {number}"))
    return np.array(rows, np.float64).reshape(-1, 5)


def _row(fields: list[str], classes: int, where: str) -> list[float]:
    try:
        kind, *values = (float(field) for field in fields)
    except ValueError:
        raise UsageError(f"{where}: {' '.join(fields)[:60]!r} is not a row of numbers.") from None
    if not all(math.isfinite(value) for value in (kind, *values)) or kind != int(kind):
        raise UsageError(f"{where}: expected a whole class index and finite numbers, found {' '.join(fields)[:60]!r}.")
    if not 0 <= kind < classes:
        raise UsageError(f"{where}: class {int(kind)} is outside the {classes} names of the data set.")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UsageError(f"{where}: expected 'class x y w h' or a polygon, found {len(fields)} columns.")
    if min(values) < 0 or max(values) > 1 + _SLACK:
        raise UsageError(f"{where}: numbers have to be fractions of the image from 0 to 1, found {max(values):g}.")
    if len(values) > 4:
        return [kind, min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
    x, y, w, h = values
    return [kind, x - w / 2, y - h / 2, x + w / 2, y + h / 2]
