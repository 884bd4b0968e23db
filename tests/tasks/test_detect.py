"""From an image to a tensor, and from a head's output to boxes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks import Detect, Detections, image
from edgedeploy.tasks.image import Geometry

LABELS = ("a", "b", "c")
TASK = Detect.yolov8(LABELS, (64, 64))
WHOLE = Geometry((64, 64), (64, 64), (0, 0))
Floats = npt.NDArray[np.float32]


@pytest.fixture(params=["opencv", "numpy"], autouse=True)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(image, "_opencv", lambda: None)


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def head(anchors: list[tuple[float, ...]], number: int = 84) -> Floats:
    """(1, 4 + 3, number) with rows cx, cy, w, h, score of each class; the other anchors are empty."""
    output = np.zeros((1, 7, number), np.float32)
    for index, row in enumerate(anchors):
        output[0, :, index * 3] = row
    return output


def found(task: Detect, output: Floats, geometry: Geometry = WHOLE) -> list[Any]:
    result = task.finish([output], geometry)
    assert [str(a.dtype) for a in (result.boxes, result.scores, result.classes)] == ["float32", "float32", "int64"]
    assert result.boxes.shape == (len(result), 4)
    return [
        ([round(float(x), 3) for x in box], round(float(score), 3), int(kind))
        for box, score, kind in zip(result.boxes, result.scores, result.classes, strict=True)
    ]


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("align", ["center", "topleft"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_prepare_is_the_formula_of_the_contract(
    resize: Literal["letterbox", "stretch"], align: Literal["center", "topleft"], color: Literal["RGB", "BGR"]
) -> None:
    task = dataclasses.replace(TASK, resize=resize, align=align, color=color, mean=(1, 2, 3), std=(4, 5, 6), pad=50)
    source = picture(32, 64)
    prepared = task.prepare(source)
    (tensor,) = prepared.tensors
    assert tensor.shape == (1, 3, 64, 64)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    geometry: Geometry = prepared.context
    expected = np.full((64, 64, 3), 50.0)
    (top, left), (height, width) = geometry.offset, geometry.content
    expected[top : top + height, left : left + width] = image.resized(source, geometry.content)
    if color == "BGR":
        expected = expected[..., ::-1]
    expected = (expected - np.array([1, 2, 3])) / np.array([4, 5, 6])
    assert tensor[0].transpose(1, 2, 0) == pytest.approx(expected, abs=1e-4)


def test_yolov8_enters_in_zero_to_one_and_yolox_in_grey_levels() -> None:
    white = np.full((8, 64, 3), 255, np.uint8)
    eight = Detect.yolov8(LABELS, (64, 64)).prepare(white).tensors[0]
    assert eight[0, :, 32, 5] == pytest.approx([1, 1, 1])
    assert eight[0, :, 0, 0] == pytest.approx([114 / 255] * 3)
    x = Detect.yolox(LABELS, (64, 64)).prepare(np.full((8, 64, 3), (1, 2, 3), np.uint8)).tensors[0]
    assert x[0, :, 0, 0].tolist() == [3, 2, 1]
    assert x[0, :, 63, 63].tolist() == [114, 114, 114]


def test_two_calls_share_no_memory() -> None:
    first, second = TASK.prepare(picture(64, 64)), TASK.prepare(picture(64, 64, 1))
    assert not np.shares_memory(first.tensors[0], second.tensors[0])


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_prepare_refuses_what_is_no_rgb_image(wrong: npt.NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match="RGB image"):
        TASK.prepare(wrong)


def test_yolov8_boxes_are_sorted_suppressed_and_thresholded() -> None:
    output = head(
        [
            (20, 20, 20, 20, 0.1, 0.6, 0.0),
            (21, 20, 20, 20, 0.0, 0.8, 0.0),  # removes the first
            (20, 20, 20, 20, 0.7, 0.0, 0.0),  # another class: stays
            (50, 50, 10, 10, 0.0, 0.0, 0.24),
            (50, 50, 10, 10, 0.0, 0.0, 0.26),
        ]
    )
    assert found(TASK, output) == [
        ([11, 10, 31, 30], 0.8, 1),
        ([10, 10, 30, 30], 0.7, 0),
        ([45, 45, 55, 55], 0.26, 2),
    ]
    assert found(dataclasses.replace(TASK, max_detections=1), output) == [([11, 10, 31, 30], 0.8, 1)]
    assert len(found(dataclasses.replace(TASK, iou=0.95), output)) == 4
    assert found(TASK, head([])) == []


def test_multi_label_takes_every_class_of_an_anchor() -> None:
    output = head([(20, 20, 20, 20, 0.5, 0.6, 0.0005)])
    assert found(TASK, output) == [([10, 10, 30, 30], 0.6, 1)]
    assert found(TASK.for_evaluation(), output) == [([10, 10, 30, 30], 0.6, 1), ([10, 10, 30, 30], 0.5, 0)]


def test_boxes_return_to_the_original_image_and_are_clipped() -> None:
    geometry = Geometry((32, 128), (16, 64), (24, 0))
    output = head([(32, 32, 16, 8, 0.9, 0, 0), (0, 24, 8, 8, 0, 0.8, 0)])
    assert found(TASK, output, geometry) == [([48, 8, 80, 24], 0.9, 0), ([0, 0, 8, 8], 0.8, 1)]


def test_yolox_is_decoded_on_its_grid() -> None:
    task = Detect.yolox(LABELS, (64, 32))  # 8x4, 4x2 and 2x1 cells
    output = np.zeros((1, 32 + 8 + 2, 8), np.float32)
    output[0, 5] = (0.5, 0.25, np.log(2), np.log(3), 0.5, 0, 0.9, 0)  # row 1, column 1 of stride 8
    output[0, 32 + 3] = (0, 0, 0, 0, 1.0, 0.7, 0, 0)  # row 1, column 1 of stride 16
    output[0, 41] = (0.5, 0.5, -1, -1, 0.9, 0, 0, 0.9)  # row 1 of stride 32
    half = 16 * np.exp(-1)
    whole = Geometry((64, 32), (64, 32), (0, 0))
    third = [round(float(x), 3) for x in (16 - half, 48 - half, 16 + half, 48 + half)]
    results = found(task, output, whole)
    assert results[0] == (pytest.approx(third, abs=2e-3), pytest.approx(0.81), 2)
    assert results[1] == ([8, 8, 24, 24], pytest.approx(0.7), 0)
    assert results[2] == ([4, 0, 20, 22], pytest.approx(0.45), 1)


def test_end_to_end_rows_are_taken_as_they_are() -> None:
    rows = np.array([[[1, 2, 3, 4, 0.5, 2], [10, 10, 20, 20, 0.9, 0], [10, 10, 20, 20, 0.8, 0], [0] * 6]], np.float32)
    expected = [([10, 10, 20, 20], 0.9, 0), ([10, 10, 20, 20], 0.8, 0), ([1, 2, 3, 4], 0.5, 2)]
    assert found(dataclasses.replace(TASK, head="end2end"), rows) == expected
    assert found(dataclasses.replace(TASK, nms="graph"), rows) == expected
    assert found(dataclasses.replace(TASK, head="end2end", max_detections=1), rows) == expected[:1]
    rows[0, 0, 5] = 3
    with pytest.raises(UsageError, match="class 3, but the task has 3 labels"):
        found(dataclasses.replace(TASK, head="end2end"), rows)


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        (TASK, (1, 8, 84)),
        (TASK, (84,)),
        (TASK, (2, 7, 84)),
        (Detect.yolox(LABELS, (64, 64)), (1, 83, 8)),
        (Detect.yolox(LABELS, (64, 64)), (1, 84, 7)),
        (dataclasses.replace(TASK, head="end2end"), (1, 5, 7)),
    ],
)
def test_an_output_of_another_shape_is_refused(task: Detect, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"Is it another head"):
        task.finish([np.zeros(shape, np.float32)], WHOLE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["yolov8", "yolox", "end2end"])
@pytest.mark.parametrize("field", [0, 3, 4, 5])
def test_what_is_not_finite_is_dropped_and_counted(bad: float, kind: str, field: int) -> None:
    rows = np.array([[20, 20, 10, 10, 0.9, 0.9, 0, 0], [50, 50, 9, 9, 0.8, 0.7, 0, 0]], np.float32)
    if kind == "yolov8":
        task, output = TASK, head([tuple(np.delete(row, 4)) for row in rows])
        output[0, field, 0] = bad
    elif kind == "yolox":
        task = Detect.yolox(LABELS, (64, 64))
        output = np.zeros((1, 84, 8), np.float32)
        output[0, [3, 60]] = rows
        output[0, 3, field] = bad
    else:
        task = dataclasses.replace(TASK, head="end2end")
        output = np.array([[[1, 1, 9, 9, 0.9, 0], [2, 2, 9, 9, 0.8, 1], [0] * 6]], np.float32)
        output[0, 0, field] = bad
    result = task.finish([output], WHOLE)
    assert np.isfinite(result.boxes).all()
    assert np.isfinite(result.scores).all()
    if bad != -np.inf:  # a score of minus infinity is just low, and such a size is empty
        assert (len(result), result.nonfinite) == (1, 1)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["yolov8", "yolox", "end2end"]), st.booleans())
def test_no_output_is_a_surprise(seed: int, kind: Literal["yolov8", "yolox", "end2end"], evaluation: bool) -> None:
    generator = np.random.default_rng(seed)
    task = dataclasses.replace(TASK, head=kind)
    shape = {"yolov8": (1, 7, 84), "yolox": (1, 84, 8), "end2end": (1, 20, 6)}[kind]
    output = generator.choice([0, 0.3, 0.9, 1, 2, 30, 1e30, -5, np.nan, np.inf], shape).astype(np.float32)
    if kind == "end2end":
        output[..., 5] = generator.integers(0, 3, 20)
    result = (task.for_evaluation() if evaluation else task).finish([output], Geometry((40, 80), (32, 64), (16, 0)))
    assert (np.diff(result.scores) <= 0).all()
    assert ((result.boxes >= 0) & (result.boxes <= [80, 40, 80, 40])).all()
    assert (result.boxes[:, 2:] >= result.boxes[:, :2]).all() or kind == "end2end"


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def test_distance_of_known_results() -> None:
    one = detections((0, 0, 10, 10, 0.8, 0))
    nothing = detections()
    assert TASK.distance(nothing, nothing) == 0
    assert TASK.distance(one, nothing) == 1
    assert TASK.distance(nothing, one) == 1
    assert TASK.distance(one, detections((0, 0, 10, 10, 0.8, 1))) == 1  # another class
    assert TASK.distance(one, detections((0, 0, 10, 10, 0.6, 0))) == pytest.approx(0.2)
    assert TASK.distance(one, detections((0, 0, 10, 8, 0.8, 0))) == pytest.approx(0.2)
    assert TASK.distance(one, detections((0, 0, 10, 4, 0.8, 0))) == 1  # overlap below 0.5
    # One of two is missing; the better one counts for more.
    two = detections((0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.4, 0))
    assert TASK.distance(two, one) == pytest.approx(1 / 3)
    assert TASK.distance(one, two) == pytest.approx(1 / 3)
    # What nobody would see does not count.
    assert TASK.distance(one, detections((0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.2, 0))) == 0


rows = st.tuples(
    st.floats(0, 20, width=32), st.floats(0, 20, width=32), st.floats(1, 20, width=32), st.floats(1, 20, width=32),
    st.floats(0, 1, width=32), st.integers(0, 2),
).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3], r[4], r[5]))  # fmt: skip
results = st.lists(rows, max_size=8).map(lambda r: detections(*r))


@given(results, results)
def test_distance_is_a_share_and_symmetric(first: Detections, second: Detections) -> None:
    distance = TASK.distance(first, second)
    assert 0 <= distance <= 1
    assert TASK.distance(first, first) == pytest.approx(0, abs=1e-6)
    # Pairs of exactly equal cost may be taken in another order, which changes what remains.
    if len(first) <= 1 or len(second) <= 1:
        assert TASK.distance(second, first) == pytest.approx(distance, abs=1e-6)


def test_relabelling_maps_and_leaves_out() -> None:
    before = detections((0, 0, 1, 1, 0.9, 0), (1, 1, 2, 2, 0.8, 1), (2, 2, 3, 3, 0.7, 2))
    after = before.relabel((1, -1, 0))
    assert after.classes.tolist() == [1, 0]
    assert after.scores == pytest.approx([0.9, 0.7])
    assert len(detections().relabel((0,))) == 0
