"""Data as a trainer of Ultralytics wants them, in a folder of our own: links to the images, and label files.

The trainer writes caches beside the labels, and repairs images in place. Neither may happen to somebody's data, so it
is never shown them: it gets links, and copies of those images that it would rewrite.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import canonical, read_json
from edgedeploy.tasks.dataset import DetectionSet, Sample
from edgedeploy.tasks.image import SUFFIXES, Pixels, read_image
from edgedeploy.tasks.slices import Slices, Window, cut

#: Grey level of the border of a letterboxed image; what a detector knows to be nothing.
GREY = 114

_LEAST = 10  # pixels a side, below which the trainer leaves an image out
_RECORD = "staged.json"
_FORMAT = 1  # of the folder; another one is not taken for ours


@dataclass(frozen=True)
class Staging:
    """How the training images are written; those for validation stay as they are.

    Images that are not as they were are written again (JPEG at quality 95 where they were JPEG, else PNG), not linked.

    Args:
        grey: paint ignored regions grey where no labelled object is, so that what is found there is not punished.
        tiles: cut images into these windows, each of them an image (``whole`` and what merges detections mean nothing
            here).
        least: of an object at least this share is in a window, or it is no object of that window but ignored there.
    """

    grey: bool = False
    tiles: Slices | None = None
    least: float = 0.4


@dataclass(frozen=True, eq=False)
class Staged:
    """A folder of data in the YOLO layout, and what it was made of.

    ``yaml`` is its data.yaml, ``train`` and ``val`` are the data sets in it, sample after sample in the order of the
    files; those that were written again, and not linked, with the path of what was written. ``digest`` is the sha256 of
    what was given, with the options. ``faults`` are sentences: those of the data sets, classes without an object,
    images that are in both.
    """

    folder: Path
    train: DetectionSet
    val: DetectionSet
    labels: tuple[str, ...]
    yaml: Path
    digest: str
    faults: tuple[str, ...] = ()


def stage(train: DetectionSet, val: DetectionSet, folder: str | Path, options: Staging | None = None) -> Staged:
    """Write ``folder`` (images, labels, data.yaml), or leave it as it is where it already holds just that.

    Images are symbolic links with absolute targets, numbered in the order of the samples, so that equal names do not
    collide; where the file system has no links they are copied. Crowd and ignored regions are no objects and are not
    written; images without objects get an empty label file. All is written beside ``folder`` and renamed into place.

    Raises:
        UsageError: the classes of both sets differ, ``folder`` holds something else or cannot be written, or an image
            has gone.
        Unavailable: PyYAML is not here.
    """
    options = options or Staging()
    if train.labels != val.labels:
        raise UsageError(
            f"Training and validation data have different classes: {', '.join(train.labels)[:120]} and "
            f"{', '.join(val.labels)[:120]}. Give two splits of one data set."
        )
    folder = Path(folder).absolute()
    digest = _digest(train, val, options)
    parts = {"train": list(_parts(train, options)), "val": [_Part(sample, sample) for sample in val.samples]}
    if not _holds(folder, digest, sum(map(len, parts.values()))):
        _write(folder, digest, parts, train.labels)
    faults = (*train.faults, *val.faults, *doubts(train, val))
    train = _as_staged(train, folder / "images" / "train", parts["train"])
    val = _as_staged(val, folder / "images" / "val", parts["val"])
    return Staged(folder, train, val, train.labels, folder / "data.yaml", digest, faults)


@dataclass(frozen=True, eq=False)
class _Part:
    """An image to be staged: what was given, what of it there will be, and how it is made."""

    source: Sample
    sample: Sample
    window: Window | None = None
    grey: bool = False

    @property
    def suffix(self) -> str:
        suffix = self.source.image.suffix.lower()
        if not self.rewritten:
            return suffix
        return ".jpg" if suffix in (".jpg", ".jpeg") else ".png"

    @property
    def rewritten(self) -> bool:
        return self.window is not None or self.grey or self.source.image.suffix.lower() not in SUFFIXES


def _parts(data: DetectionSet, options: Staging) -> Iterator[_Part]:
    for sample in data.samples:
        windows = options.tiles.windows(sample.size) if options.tiles else ()
        if len(windows) < 2:
            yield _Part(sample, sample, None, options.grey and len(sample.ignored) > 0)
            continue
        for window in windows:
            tile = cut(sample, window, sample.image, options.least)
            yield _Part(sample, tile, window, options.grey and len(tile.ignored) > 0)


def _as_staged(data: DetectionSet, images: Path, parts: list[_Part]) -> DetectionSet:
    """The data set of the images that a trainer gets."""
    made = tuple(
        dataclasses.replace(part.sample, image=images / f"{name}{part.suffix}") if part.rewritten else part.sample
        for name, part in zip(_names(len(parts)), parts, strict=True)
    )
    return dataclasses.replace(data, samples=made) if any(part.rewritten for part in parts) else data


def _names(count: int) -> list[str]:
    """Names that sort as their numbers do."""
    return [f"{index:0{len(str(count))}d}" for index in range(count)]


def _digest(train: DetectionSet, val: DetectionSet, options: Staging) -> str:
    parts = [_FORMAT, train.digest(), val.digest(), dataclasses.asdict(options)]
    return hashlib.sha256(canonical(parts)).hexdigest()


def _holds(folder: Path, digest: str, images: int) -> bool:
    """Whether a folder is the wanted one and whole; not where it is missing, empty, or its links lead nowhere.

    Raises:
        UsageError: there is something else in it, which nobody asked to overwrite.
    """
    if not folder.exists() and not folder.is_symlink():
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    record = folder / _RECORD
    found = read_json(record) if record.is_file() else None
    if not isinstance(found, dict) or found.get("digest") != digest:
        what = "other data, or the same with other settings" if record.is_file() else "something else"
        raise UsageError(f"{folder} already holds {what}. Give another folder, or delete this one.")
    there = [path for path in (folder / "images").rglob("*") if path.suffix.lower() in SUFFIXES]
    return len(there) == images and all(path.exists() for path in there)


def _write(folder: Path, digest: str, parts: dict[str, list[_Part]], labels: tuple[str, ...]) -> None:
    images = sum(map(len, parts.values()))
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split, every in parts.items():
            (partial / "images" / split).mkdir(parents=True)
            (partial / "labels" / split).mkdir(parents=True)
            for name, part in zip(_names(len(every)), every, strict=True):
                _image(partial / "images" / split / f"{name}{part.suffix}", part)
                text = "".join(_lines(part.sample))
                (partial / "labels" / split / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        (partial / "data.yaml").write_text(_yaml(labels), encoding="utf-8", newline="\n")
        (partial / _RECORD).write_bytes(canonical({"digest": digest, "format": _FORMAT}))
        _into_place(partial, folder, digest, images)
    except OSError as error:
        if not _holds(folder, digest, images):
            raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _into_place(partial: Path, folder: Path, digest: str, images: int) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        # Ours with links that lead nowhere, or by now another process of one training has written it.
        if _holds(folder, digest, images):
            return
        shutil.rmtree(folder)
    partial.replace(folder)


def _image(place: Path, part: _Part) -> None:
    """Put an image there: a link, or a copy where it is changed or the trainer would change it."""
    image = part.source.image
    if part.rewritten:
        pixels = read_image(image)
        if part.window is not None:
            left, top, right, bottom = part.window
            pixels = pixels[top:bottom, left:right]
        save_image(place, greyed(pixels, part.sample) if part.grey else pixels)
        return
    if not _unfinished(image):
        try:
            place.symlink_to(image.absolute())
        except (OSError, NotImplementedError):
            pass  # no links on this file system, or not allowed
        else:
            return
    shutil.copyfile(image, place)


def _unfinished(image: Path) -> bool:
    """Whether bytes follow the end of a JPEG: the trainer then decodes the file and writes it again."""
    with image.open("rb") as stream:
        if stream.read(2) != b"\xff\xd8":
            return False
        stream.seek(-2, os.SEEK_END)
        return stream.read() != b"\xff\xd9"


def greyed(image: Pixels, sample: Sample) -> Pixels:
    """A copy of an image (h, w, 3) with ignored regions in `GREY`, labelled objects in them left to be seen."""
    out = image.copy()
    for region in sample.ignored:
        out[_pixels(region)] = GREY
    for box in sample.boxes[~sample.crowd]:
        out[_pixels(box)] = image[_pixels(box)]
    return out


def _pixels(box: npt.NDArray[np.float32]) -> tuple[slice, slice]:
    left, top, right, bottom = (int(v) for v in (*np.floor(box[:2]), *np.ceil(box[2:])))
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def save_image(path: Path, image: Pixels) -> None:
    """Write RGB pixels (h, w, 3) as PNG, or as JPEG of quality 95 where ``path`` ends so.

    Raises:
        Unavailable: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise Unavailable.extra("A writer of image files (pillow)", "images") from None
    # PNG knows neither word and passes over them.
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def _lines(sample: Sample) -> Iterator[str]:
    """A line ``class x y w h`` per object: centre and size as shares of the image."""
    height, width = sample.size
    scale = np.array([width, height] * 2, np.float64)
    for box, kind in zip(sample.boxes[~sample.crowd] / scale, sample.classes[~sample.crowd], strict=True):
        centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        yield f"{kind} {' '.join(f'{value:.9f}' for value in (*centre, *sides))}\n"


def _yaml(labels: tuple[str, ...]) -> str:
    try:
        import yaml
    except ImportError:
        raise Unavailable("PyYAML is not installed here. Install it with: pip install pyyaml") from None
    data = {"train": "images/train", "val": "images/val", "names": dict(enumerate(labels))}
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def doubts(train: DetectionSet, val: DetectionSet) -> Iterator[str]:
    """Sentences about two parts of a data set: classes that cannot be learnt, images in both, images left out."""
    there = {int(kind) for sample in train.samples for kind in sample.classes[~sample.crowd]}
    if missing := [label for index, label in enumerate(train.labels) if index not in there]:
        yield f"No object of {', '.join(missing)} is in the training data, so that it cannot be learnt."
    first, second = ({sample.image.resolve() for sample in data.samples} for data in (train, val))
    if both := first & second:
        yield f"{len(both)} images are in training and validation data, the first is {min(both)}."
    small = [sample.image for sample in (*train.samples, *val.samples) if min(sample.size) < _LEAST]
    if small:
        yield f"{len(small)} images have a side below {_LEAST} pixels and are left out in training: {small[0]}."
