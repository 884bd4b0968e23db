"""Training images in an order, and with augmentation, that depend on nothing but seed, epoch and image.

So a training that was killed goes on as it would have gone on, and several processes together see what one would see.
Importing this module imports ``ultralytics`` (AGPL-3.0).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from edgedeploy.compress.staging import Staged
from edgedeploy.errors import UsageError
from edgedeploy.models.yolo import quietly
from edgedeploy.tasks.image import SUFFIXES

with quietly():
    from ultralytics.data.build import InfiniteDataLoader, seed_worker
    from ultralytics.data.dataset import YOLODataset


class Order(Sampler[int]):
    """A shuffled order per epoch, dealt out to the processes so that batch k of all is batch k of one."""

    def __init__(self, images: int, seed: int, rank: int, world: int) -> None:
        """``rank`` of ``world`` processes; the order is filled up with its first images until all get as many."""
        self.images, self.seed, self.rank, self.world = images, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """What the next pass is (counted from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.images // self.world)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch, self.images))
        order = torch.randperm(self.images, generator=generator).tolist()
        order += (order * self.world)[: len(self) * self.world - len(order)]
        return iter(order[self.rank :: self.world])


class Images(YOLODataset):  # type: ignore[misc]  # ultralytics is not typed for us
    """Ultralytics' augmented training images, their labels straight from the data set: no cache, no file written."""

    def __init__(self, data: Staged, facts: dict[str, Any], args: Any, batch: int, stride: int) -> None:
        """``facts``: what Ultralytics reads of a data.yaml, ``args``: the settings, ``batch``: that of this process."""
        self.staged, self.seed, self.epoch = data, int(args.seed), 0
        self.buffer: list[int]
        super().__init__(
            img_path=str(data.folder), imgsz=args.imgsz, cache=args.cache or None, augment=True, hyp=args,
            batch_size=batch, stride=stride, pad=0.0, data=facts, task="detect",
        )  # fmt: skip

    def get_img_files(self, img_path: object) -> list[str]:
        """The staged images, in the order of the samples.

        Raises:
            UsageError: there are more or fewer than samples.
        """
        folder = self.staged.folder / "images" / "train"
        files = sorted(str(path) for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if len(files) != len(self.staged.train):
            raise UsageError(
                f"{folder} holds {len(files)} images where {len(self.staged.train)} were put. Delete the folder "
                f"{self.staged.folder}, to have it written again."
            )
        return files

    def get_labels(self) -> list[dict[str, Any]]:
        """Classes (n, 1) and boxes (n, 4), centre and size as shares of the image, of objects that are no crowd."""
        labels = []
        for file, sample in zip(self.im_files, self.staged.train.samples, strict=True):
            height, width = sample.size
            boxes = sample.boxes[~sample.crowd] / np.array([width, height] * 2, np.float32)
            corners = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
            labels.append(
                {
                    "im_file": file,
                    "shape": sample.size,
                    "cls": sample.classes[~sample.crowd, None].astype(np.float32),
                    "bboxes": corners.astype(np.float32),
                    "segments": [],
                    "keypoints": None,
                    "normalized": True,
                    "bbox_format": "xywh",
                }
            )
        return labels

    def cache_images(self) -> None:
        """As Ultralytics does it, without its progress bar."""
        with redirect_stdout(io.StringIO()):
            super().cache_images()

    def load_image(self, i: int, *args: Any, **options: Any) -> Any:
        """Pixels, and size before and after resizing.

        Raises:
            UsageError: the file cannot be read as an image.
        """
        try:
            return super().load_image(i, *args, **options)
        except FileNotFoundError as error:
            image = self.staged.train.samples[i].image
            raise UsageError(f"{image} cannot be read as an image. Repair it, or take it out of the data.") from error

    def begin(self, epoch: int) -> None:
        """Forget which images were seen last, which mosaics are made of, and augment as in this epoch."""
        self.epoch = epoch
        if self.cache != "ram":
            for index in self.buffer:
                self.ims[index], self.im_hw0[index], self.im_hw[index] = None, None, None
            self.buffer = []

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The augmented image, a function of seed, epoch and index (and of the images before it, in a mosaic)."""
        number = _mixed(self.seed, self.epoch, index)
        random.seed(number)
        np.random.seed(number % 2**32)
        return super().__getitem__(index)  # type: ignore[no-any-return]


def loader(images: Images, batch: int, order: Order, workers: int, pin: bool) -> Any:
    """Batches of ``batch`` images in this order, the last one of an epoch smaller where they do not divide."""
    batch = min(batch, len(order))
    workers = 0 if len(order) <= batch else workers
    return InfiniteDataLoader(
        dataset=images, batch_size=batch, sampler=order, num_workers=workers,
        prefetch_factor=4 if workers else None, pin_memory=pin, collate_fn=images.collate_fn,
        worker_init_fn=seed_worker, generator=torch.Generator().manual_seed(images.seed),
    )  # fmt: skip


def _mixed(*parts: int) -> int:
    """One seed out of several numbers, the same on every machine."""
    return int(np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1, np.uint64)[0] >> 1)
