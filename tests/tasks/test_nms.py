"""Blockwise suppression is the sequential algorithm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.tasks import nms
from edgedeploy.tasks.nms import overlaps, suppress


def sequential(boxes: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], iou: float, limit: int) -> list[int]:
    kept: list[int] = []
    for i in range(len(boxes)):
        if not any(classes[i] == classes[j] and overlaps(boxes[i : i + 1], boxes[j : j + 1])[0, 0] > iou for j in kept):
            kept.append(i)
    return kept[:limit]


@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(1, 70))
def test_the_result_is_that_of_the_sequential_algorithm(n: int, seed: int, iou: float, limit: int) -> None:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 30, (n, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0, 30, (n, 2))], axis=1).astype(np.float32)
    classes = generator.integers(0, 3, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "_BLOCK", 7)  # so that many blocks are met
        assert suppress(boxes, classes, iou, limit).tolist() == sequential(boxes, classes, iou, limit)


def test_chains_are_resolved_in_order() -> None:
    # Each box overlaps only its neighbours: the first removes the second, so the third stays, and so on.
    starts = np.arange(40, dtype=np.float32) * 4
    boxes = np.stack([starts, 0 * starts, starts + 10, 0 * starts + 10], axis=1)
    assert suppress(boxes, np.zeros(40, np.int64), 0.3, 100).tolist() == list(range(0, 40, 2))


def test_other_classes_and_empty_boxes_stay() -> None:
    same = np.array([[0, 0, 10, 10]] * 3, np.float32)
    assert suppress(same, np.array([0, 1, 0]), 0.5, 9).tolist() == [0, 1]
    nothing = np.zeros((3, 4), np.float32)
    assert suppress(nothing, np.zeros(3, np.int64), 0.5, 9).tolist() == [0, 1, 2]
    assert suppress(np.empty((0, 4), np.float32), np.empty(0, np.int64), 0.5, 9).tolist() == []


def test_overlaps() -> None:
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert overlaps(first, second) == pytest.approx(np.array([[1, 1 / 3, 0], [0, 0, 0]]))
