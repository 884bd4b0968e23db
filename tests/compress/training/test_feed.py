"""Order and augmentation follow from seed, epoch and image alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy import inherit
from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import read_detection_set

pytest.importorskip("ultralytics")
COUNT = st.integers(1, 40)


@given(images=COUNT, world=st.integers(1, 4), local=st.integers(1, 5), epoch=st.integers(0, 3))
def test_batches_of_several_processes_are_those_of_one(images: int, world: int, local: int, epoch: int) -> None:
    from edgedeploy.compress.training.feed import Order

    def order(rank: int, of: int) -> list[int]:
        one = Order(images, seed=7, rank=rank, world=of)
        one.set_epoch(epoch)
        assert len(one) == len(list(one))
        return list(one)

    whole, shares = order(0, 1), [order(rank, world) for rank in range(world)]
    assert sorted(whole) == list(range(images))
    assert len({len(share) for share in shares}) == 1
    filled = whole + (whole * world)[: len(shares[0]) * world - images]
    for start in range(0, len(shares[0]), local):
        together = [index for share in shares for index in share[start : start + local]]
        assert sorted(together) == sorted(filled[start * world : (start + local) * world])


def test_every_epoch_has_an_order_of_its_own() -> None:
    from edgedeploy.compress.training.feed import Order

    seen = set()
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        order = Order(30, seed, rank=0, world=1)
        order.set_epoch(epoch)
        seen.add(tuple(order))
    assert len(seen) == 3


@pytest.fixture
def images(scenes: Path, tmp_path: Path) -> Any:
    from ultralytics.cfg import get_cfg

    from edgedeploy.compress.staging import stage
    from edgedeploy.compress.training.feed import Images

    train, val = (read_detection_set(scenes, split).subset(range(6)) for split in ("train", "val"))
    staged = stage(train, val, tmp_path / "staged")
    facts = {"names": dict(enumerate(staged.labels)), "nc": len(staged.labels), "channels": 3}

    def make(**settings: Any) -> Images:
        return Images(staged, facts, get_cfg(overrides={"imgsz": 64, "mosaic": 0.0, **settings}), 2, 32)

    return make


def test_an_image_does_not_depend_on_what_was_seen_before(images: Any) -> None:
    first, second = images(), images()
    second.begin(0)
    for index in (5, 0, 3):
        second[index]
    one, other = first[3], second[3]
    assert torch.equal(one["img"], other["img"])
    assert torch.equal(one["bboxes"], other["bboxes"])
    second.begin(1)
    assert not torch.equal(one["img"], second[3]["img"])
    assert not torch.equal(one["img"], images(seed=1)[3]["img"])


def test_mosaics_of_an_epoch_do_not_depend_on_the_one_before(images: Any, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = images(mosaic=1.0), images(mosaic=1.0)
    for index in (4, 2, 1):
        first[index]
    for one in (first, second):
        one.begin(1)
    for index in (5, 0, 3):
        assert torch.equal(first[index]["img"], second[index]["img"])
    cached = images(mosaic=1.0, cache="ram")
    assert cached[1]["img"].shape == (3, 64, 64)
    assert capfd.readouterr().out == ""


#: In a process of its own: workers are forked, which a process with the threads of many runtimes does not survive.
WORKERS = """
import sys
from pathlib import Path
import torch
from edgedeploy.models.yolo import quietly
with quietly():
    from ultralytics.cfg import get_cfg
from edgedeploy.compress.staging import stage
from edgedeploy.compress.training.feed import Images, Order, loader
from edgedeploy.tasks.dataset import read_detection_set

train, val = (read_detection_set(Path(sys.argv[1]), split).subset(range(6)) for split in ("train", "val"))
staged = stage(train, val, Path(sys.argv[2]))
facts = {"names": dict(enumerate(staged.labels)), "nc": len(staged.labels), "channels": 3}
seen = []
for workers in (0, 1):
    feed = Images(staged, facts, get_cfg(overrides={"imgsz": 64, "mosaic": 0.0}), 2, 32)
    order = Order(6, seed=0, rank=0, world=1)
    batches = loader(feed, 4, order, workers, pin=False)
    for epoch in (0, 1):
        feed.begin(epoch)
        order.set_epoch(epoch)
        batches.reset()
        found = list(batches)
        assert [len(batch["im_file"]) for batch in found] == [4, 2]
        seen.append(torch.cat([batch["img"] for batch in found]))
    batches.close()
assert torch.equal(seen[0], seen[2])
assert torch.equal(seen[1], seen[3])
assert not torch.equal(seen[0].sort(0)[0], seen[1].sort(0)[0])
print("alike")
"""


def test_workers_give_what_the_process_itself_gives(scenes: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(scenes), str(tmp_path / "staged")],
        env=inherit.environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["alike"], done.stderr


def test_labels_are_those_of_the_data_set(images: Any) -> None:
    feed = images()
    assert [Path(file).stem for file in feed.im_files] == [f"{index}" for index in range(6)]
    for label, sample in zip(feed.labels, feed.staged.train.samples, strict=True):
        height, width = sample.size
        x, y, w, h = (label["bboxes"] * [width, height, width, height]).T
        np.testing.assert_allclose(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), sample.boxes, atol=1e-3)
        assert label["cls"][:, 0].tolist() == sample.classes.tolist()


def test_images_that_have_gone_or_are_broken(images: Any) -> None:
    feed = images()
    file = Path(feed.im_files[2])
    file.unlink()
    file.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"2\.png cannot be read as an image"):
        feed[2]
    file.unlink()
    with pytest.raises(UsageError, match="holds 5 images where 6 were put"):
        images()
