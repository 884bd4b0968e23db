"""Which objects and detections a protocol counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedeploy.accuracy import judge
from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import DetectionSet, Sample
from edgedeploy.tasks.detect import Detect, Detections
from edgedeploy.tasks.protocol import (
    COCO,
    ULTRALYTICS,
    VISDRONE,
    Protocol,
    counted,
    limited,
    protocol_of,
    share_ignored,
)
from edgedeploy.tasks.slices import Slices

CORNERS = st.integers(0, 6).flatmap(lambda n: arrays(np.int64, (n, 4), elements=st.integers(0, 24)))


@given(CORNERS, CORNERS)
def test_the_share_is_that_of_painted_pixels(boxes: np.ndarray, regions: np.ndarray) -> None:
    """Regions may overlap; a box without an area has no share."""
    boxes, regions = (np.sort(a.reshape(-1, 2, 2), axis=1).reshape(-1, 4) for a in (boxes, regions))
    painted = np.zeros((24, 24))
    for left, top, right, bottom in regions:
        painted[top:bottom, left:right] = 1
    expected = [
        painted[top:bottom, left:right].mean() if right > left and bottom > top else 0
        for left, top, right, bottom in boxes
    ]
    found = share_ignored(boxes.astype(np.float32), regions.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def street(tmp_path: Path) -> tuple[DetectionSet, tuple[Detections, ...]]:
    """An image whose left half is ignored; cars at the left, over the edge, and right; two are found, and one more."""
    path = tmp_path / "street.png"
    path.write_bytes(b"pixels")
    boxes = np.array([[0, 0, 10, 10], [45, 0, 55, 10], [80, 0, 90, 10]], np.float32)
    ignored = np.array([[0, 0, 50, 100]], np.float32)
    sample = Sample(path, (100, 100), boxes, np.zeros(3, np.int64), np.full(3, 100.0), np.zeros(3, np.bool_), ignored)
    found = np.array([[20, 20, 30, 30], [80, 0, 90, 10], [46, 60, 56, 70]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    return DetectionSet("street", ("car",), (sample,), "val"), (Detections(found, scores, np.zeros(3, np.int64)),)


def test_what_lies_in_an_ignored_region_by_half_is_left_out(tmp_path: Path) -> None:
    """Objects and detections; and only where the protocol says so. The record names it."""
    data, found = street(tmp_path)
    objects, results = counted(VISDRONE, data, found)
    assert objects.samples[0].boxes[:, 0].tolist() == [80]
    assert results[0].boxes[:, 0].tolist() == [80, 46]
    assert counted(ULTRALYTICS, data, found)[0].samples[0] is data.samples[0]
    task = Detect(("car",), (96, 96))
    judged = {one.name: judge(task, data, found, "", one).accuracy for one in (ULTRALYTICS, VISDRONE)}
    assert judged["visdrone"].metric.ap50 == pytest.approx(1)
    assert judged["ultralytics"].metric.ap50 == pytest.approx(0.5 * 34 / 101)
    named = [(one.metric.protocol, one.metric.max_detections, one.metric.ignored) for one in judged.values()]
    assert named == [("ultralytics", 300, False), ("visdrone", 500, True)]
    assert judged["visdrone"].data_digest == judged["ultralytics"].data_digest == data.digest()
    bare = dataclasses.replace(data.samples[0], ignored=np.empty((0, 4), np.float32))
    doubts = judge(task, dataclasses.replace(data, samples=(bare,)), found, "", VISDRONE).accuracy.doubts
    assert "has none" in doubts[0]


def test_the_limit_is_of_the_best_over_all_classes(tmp_path: Path) -> None:
    """Before regions are looked at."""
    data, found = street(tmp_path)
    results = counted(Protocol("mine", 2, ignored=True), data, found)[1]
    assert results[0].scores.tolist() == pytest.approx([0.8])


def test_names() -> None:
    """Known ones, by name and by limit; windows are part of what is recorded."""
    assert protocol_of("visdrone") is VISDRONE
    assert limited(100) is COCO
    assert limited(300) is ULTRALYTICS
    assert limited(500) == Protocol("custom", 500)
    with pytest.raises(UsageError, match="visdrone"):
        protocol_of("visdron")
    with pytest.raises(UsageError, match="positive"):
        Protocol("mine", 0)
    windows = protocol_of("visdrone@640:0.3:only")
    assert windows == VISDRONE.within(Slices(640, 0.3, whole=False))
    assert protocol_of(windows.name) == windows
    assert "500 detections" in windows.sentence
    assert "windows of 640 pixels that share 30%" in windows.sentence
