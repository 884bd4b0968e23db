"""Annotated images: what a detector is measured on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.records import canonical


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and the objects in it.

    ``size`` (height, width) in pixels, ``boxes`` float32 (n, 4) x1, y1, x2, y2 in pixels and inside the image,
    ``classes`` int64 (n,), ``area`` float64 (n,) in square pixels (of the mask where there is one, else of the box),
    ``crowd`` bool (n,): regions with too many objects to draw one by one, which count neither for nor against.
    ``ignored`` float32 (k, 4), corners as in ``boxes``: regions of which nobody has said what is in them, whatever the
    class; whether they are honoured is a matter of the protocol (`edgedeploy.tasks.protocol`).
    """

    image: Path
    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 4), np.float32))


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """A labelled data set, or one split of it.

    ``faults`` are sentences about what was left out or corrected while reading: an empty tuple for a clean set.
    """

    name: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    split: str
    faults: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def instances(self) -> int:
        """Objects in all images, crowd regions not counted."""
        return sum(int((~sample.crowd).sum()) for sample in self.samples)

    def subset(self, indices: Iterable[int]) -> DetectionSet:
        """The set with these samples, in this order; an index may come twice."""
        return dataclasses.replace(self, samples=tuple(self.samples[i] for i in indices))

    def digest(self) -> str:
        """sha256 over labels, annotations and the bytes of every image, in order; file names do not count.

        Computed at the first call, which reads every image file.

        Raises:
            UsageError: an image has gone.
        """
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        total = hashlib.sha256(canonical(list(self.labels)))
        for sample in self.samples:
            try:
                total.update(hashlib.sha256(sample.image.read_bytes()).digest())
            except OSError as error:
                raise UsageError(f"{sample.image} cannot be read: {error.strerror}.") from error
            total.update(np.array([*sample.size, len(sample.classes)], np.int64).tobytes())
            for array in (sample.boxes, sample.classes, sample.area, sample.crowd):
                total.update(np.ascontiguousarray(array).tobytes())
            if len(sample.ignored):
                total.update(b"ignored" + np.ascontiguousarray(sample.ignored).tobytes())
        return total.hexdigest()


def match_labels(task_labels: Sequence[str], set_labels: Sequence[str]) -> tuple[int, ...]:
    """For each class of a model its index among the labels of a data set, or -1 where the set does not have it.

    Equal lists match position by position. Otherwise classes are found by name (upper and lower case are the same),
    and the model has to know every class of the set.

    Raises:
        UsageError: the set has a class that the model does not know, or names are not unique.
    """
    if list(task_labels) == list(set_labels):
        return tuple(range(len(task_labels)))
    ours, theirs = [_plain(name) for name in task_labels], [_plain(name) for name in set_labels]
    unique = len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    if unique and set(theirs) <= set(ours):
        return tuple(theirs.index(name) if name in theirs else -1 for name in ours)
    raise UsageError(_disagreement(list(task_labels), list(set_labels)))


def _plain(name: str) -> str:
    return name.strip().casefold()


def _disagreement(ours: list[str], theirs: list[str]) -> str:
    first = next((i for i in range(min(len(ours), len(theirs))) if _plain(ours[i]) != _plain(theirs[i])), None)
    if first is None:
        first = min(len(ours), len(theirs))
    said = [f"'{names[first]}'" if first < len(names) else "nothing" for names in (ours, theirs)]
    what = (
        f"wrong number of classes between data and model: the model has {len(ours)}, the data set {len(theirs)}"
        if len(ours) != len(theirs)
        else f"data and model both have {len(ours)} classes, but not the same"
    )
    return (
        f"{what[0].upper()}{what[1:]}; the first difference is class {first}, {said[0]} in the model and {said[1]} in "
        "the data. Give the model's labels in the order in which it was trained, or the data set that belongs to it."
    )


def inside(
    boxes: npt.NDArray[np.float64], size: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Boxes (n, 4) clipped to an image, which of them stuck out by half a pixel, and which are left with an area."""
    limit = np.array([size[1], size[0]] * 2, np.float64)
    clipped: npt.NDArray[np.float64] = boxes.clip(0, limit)
    out: npt.NDArray[np.bool_] = np.abs(clipped - boxes).max(axis=1, initial=0) >= 0.5
    wide: npt.NDArray[np.bool_] = clipped[:, 2] > clipped[:, 0]
    return clipped, out, wide & (clipped[:, 3] > clipped[:, 1])


def finished(name: str, labels: tuple[str, ...], samples: list[Sample], split: str, faults: list[str]) -> DetectionSet:
    """The set, if there is something in it.

    Raises:
        UsageError: no image could be read, or no object is in any of them.
    """
    if not samples:
        raise UsageError(f"{name}: none of its {len(faults)} images can be used. The first: {faults[0]}")
    data = DetectionSet(name, labels, tuple(samples), split, tuple(faults))
    if data.instances == 0:
        hint = f" The first fault: {faults[0]}" if faults else ""
        raise UsageError(f"{name}: no object is labelled in any of its {len(samples)} images.{hint}")
    return data


def corrected(clipped: Sequence[Path], dropped: Sequence[Path], repeated: Sequence[Path] = ()) -> list[str]:
    """Sentences that count corrections; each argument has the image of every box that was corrected so."""
    kinds = {
        "reach beyond their image and were clipped": clipped,
        "have no area inside their image and were left out": dropped,
        "are in a label file twice and were taken once": repeated,
    }
    return [f"{len(images)} boxes {what}, the first in {images[0].name}." for what, images in kinds.items() if images]
