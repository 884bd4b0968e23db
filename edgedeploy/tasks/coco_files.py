"""Data sets as COCO lays them out: one JSON file of images, annotations and categories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from edgedeploy.errors import UsageError
from edgedeploy.records import read_json
from edgedeploy.tasks import samples
from edgedeploy.tasks.image import image_size
from edgedeploy.tasks.samples import DetectionSet, Sample

_LIMIT = 1 << 30  # bytes; the annotations of COCO's training split are 0.45e9


def read_coco(path: Path, images_dir: Path | None = None) -> DetectionSet:
    """The data set in an annotation file of COCO's instances format.

    Category ids become contiguous class indices in the order of the ids; samples come in the order of the image ids.
    Without ``images_dir`` the images are looked for beside the file, in ``images/`` and one folder below each. What
    cannot be used (a missing image, a box that is not four numbers) is left out and named in ``faults``.

    Raises:
        UsageError: not such a file, no images found, or nothing in it can be used.
        Unavailable: no reader of images is here.
    """
    data = _checked(read_json(path, _LIMIT), path)
    categories = sorted(data["categories"], key=lambda category: int(category["id"]))
    classes = {category["id"]: index for index, category in enumerate(categories)}
    labels = tuple(str(category["name"]) for category in categories)
    images = sorted(data["images"], key=lambda image: (not isinstance(image["id"], int), _rank(image["id"])))
    folder = images_dir if images_dir is not None else _folder(path, [str(image["file_name"]) for image in images])
    faults: list[str] = []
    by_image = _annotations(data, classes, faults)
    read: list[Sample] = []
    clipped: list[Path] = []
    dropped: list[Path] = []
    for image in images:
        try:
            sample, out, empty = _sample(folder / image["file_name"], image, by_image.get(image["id"], []), classes)
        except UsageError as error:
            faults.append(str(error))
            continue
        read.append(sample)
        clipped += [sample.image] * out
        dropped += [sample.image] * empty
    root = _root(path)
    return samples.finished(root.name, labels, read, path.stem, faults + samples.corrected(clipped, dropped))


def _rank(identity: object) -> int | str:
    return identity if isinstance(identity, int) else str(identity)


def _checked(data: object, path: Path) -> Mapping[str, Any]:
    """The file's content, if it has the lists and the keys without which nothing can be read."""
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no COCO annotation file: expected a mapping with 'images'.")
    for key, fields in needed.items():
        entries = data.get(key)
        if not isinstance(entries, list):
            raise UsageError(f"{path} is no COCO instances file: the list '{key}' is missing.")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(field not in entry for field in fields):
                raise UsageError(f"{path}: {key}[{number}] has no {' or '.join(fields) or 'keys'}.")
    for key in ("images", "categories"):
        identities = [entry["id"] for entry in data[key]]
        if not identities:
            raise UsageError(f"{path}: the list '{key}' is empty.")
        if not all(isinstance(identity, (int, str)) for identity in identities):
            raise UsageError(f"{path}: every id in '{key}' has to be a number.")
        if len(set(identities)) != len(identities):
            raise UsageError(f"{path}: ids in '{key}' are not unique.")
    if not all(isinstance(image["file_name"], str) for image in data["images"]):
        raise UsageError(f"{path}: every 'file_name' in 'images' has to be text.")
    if not all(isinstance(category["id"], int) for category in data["categories"]):
        raise UsageError(f"{path}: every id in 'categories' has to be a whole number.")
    return data


def _root(path: Path) -> Path:
    here = path.resolve().parent
    return here.parent if here.name == "annotations" else here


def _folder(path: Path, names: Sequence[str]) -> Path:
    """Where the images are: the folder that has most of the first ones."""
    root = _root(path)
    folders = [root, root / "images", path.resolve().parent]
    folders += [
        child for base in (root, root / "images") if base.is_dir() for child in sorted(base.iterdir()) if child.is_dir()
    ]
    found = [(sum((folder / name).is_file() for name in names[:16]), folder) for folder in dict.fromkeys(folders)]
    most, best = max(found, key=lambda item: item[0])
    if most == 0:
        raise UsageError(f"{path}: its images (the first is {names[0]}) are not under {root}. Give their folder.")
    return best


def _annotations(
    data: Mapping[str, Any], classes: Mapping[Any, int], faults: list[str]
) -> dict[Any, list[Mapping[str, Any]]]:
    """Annotations by image id; unusable ones become a fault each."""
    known = {image["id"] for image in data["images"]}
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(data["annotations"]):
        name = f"annotations[{number}]"
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        if not isinstance(image, (int, str)) or image not in known:
            faults.append(f"{name}: there is no image with id {image!r}.")
        elif not isinstance(category, int) or category not in classes:
            faults.append(f"{name}: there is no category with id {category!r}.")
        elif not _is_box(box):
            faults.append(f"{name}: 'bbox' has to be four numbers x, y, w, h, found {str(box)[:60]}.")
        else:
            by_image[image].append(entry)
    return by_image


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a pixel coordinate can have; JSON's whole numbers have no limit."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9


def _sample(
    path: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], classes: Mapping[Any, int]
) -> tuple[Sample, int, int]:
    """The sample, how many boxes were clipped, and how many were dropped."""
    size = image_size(path)
    stated = (image.get("height", size[0]), image.get("width", size[1]))
    if stated != size:
        raise UsageError(f"{path} is {size[1]}x{size[0]}, but its annotations are for {stated[1]}x{stated[0]}.")
    corner = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    corner[:, 2:] += corner[:, :2]
    boxes, out, sound = samples.inside(corner, size)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    area = [_area(entry.get("area"), float(side)) for entry, side in zip(annotations, sides, strict=True)]
    sample = Sample(
        path,
        size,
        boxes[sound].astype(np.float32),
        np.array([classes[entry["category_id"]] for entry in annotations], np.int64)[sound],
        np.array(area, np.float64)[sound],
        np.array([entry.get("iscrowd", 0) == 1 for entry in annotations], np.bool_)[sound],
    )
    return sample, int((out & sound).sum()), int((~sound).sum())


def _area(stated: object, box: float) -> float:
    return float(stated) if _is_number(stated) and stated > 0 else box
