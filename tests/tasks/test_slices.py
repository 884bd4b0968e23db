"""Windows over large images, and one result out of many."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import Sample
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.slices import Slices, cut, merged, moved, sliced

SIDES = st.integers(1, 300)
SLICES = st.builds(Slices, st.integers(32, 128), st.floats(0, 0.9), st.booleans())


def found(boxes: list[list[float]], scores: list[float], classes: list[int] | None = None) -> Detections:
    kinds = classes or [0] * len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(kinds, np.int64)
    )


@given(SLICES, SIDES, SIDES)
def test_windows_cover_every_pixel(slices: Slices, height: int, width: int) -> None:
    """None reaches out, all are as large as they can be, and neighbours share what they have to."""
    windows = slices.windows((height, width))
    seen = np.zeros((height, width), np.int64)
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left, bottom - top) == (min(slices.size, width), min(slices.size, height))
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    assert len(set(windows)) == len(windows)
    lefts = sorted({window[0] for window in windows})
    assert all(a + slices.size - b >= int(slices.overlap * slices.size) for a, b in itertools.pairwise(lefts))


@given(st.data(), SLICES, st.integers(40, 300), st.integers(40, 300))
def test_what_one_window_found_comes_back_unchanged(
    data: st.DataObject, slices: Slices, height: int, width: int
) -> None:
    """Moved to where the window is, to the bit; other windows that found nothing change nothing."""
    windows = list(slices.windows((height, width)))
    index = data.draw(st.integers(0, len(windows) - 1))
    left, top = windows[index][:2]
    corners = data.draw(st.lists(st.tuples(*[st.integers(0, 16 * 32)] * 4), min_size=1, max_size=5))
    boxes = [[x / 16, y / 16, x / 16 + w / 16, y / 16 + h / 16] for x, y, w, h in corners]
    scores = sorted(data.draw(st.lists(st.floats(0.25, 1, width=32), min_size=len(boxes), max_size=len(boxes))))[::-1]
    parts = [found([], [])] * len(windows)
    parts[index] = found(boxes, scores)
    together = merged(parts, windows, 300)
    np.testing.assert_array_equal(together.boxes, np.array(boxes, np.float32) + np.array([left, top] * 2))
    np.testing.assert_array_equal(together.scores, np.array(scores, np.float32))
    np.testing.assert_array_equal(moved(together.boxes, (-left, -top, 0, 0)), parts[index].boxes)


def test_one_object_is_one_detection() -> None:
    """Found by two windows whole, or whole by one and cut by the other with a better score; classes do not mix."""
    windows = [(0, 0, 100, 100), (60, 0, 160, 100)]
    twice = merged([found([[70, 0, 90, 20]], [0.8]), found([[10.5, 0, 30, 20]], [0.9])], windows, 10)
    assert twice.boxes.tolist() == [[70.5, 0, 90, 20]]
    cut_first = [found([[80, 40, 100, 60]], [0.9]), found([[20, 40, 60, 60]], [0.5])]
    assert merged(cut_first, windows, 10).boxes.tolist() == [[80, 40, 120, 60]]
    other_kind = [found([[80, 40, 100, 60]], [0.9]), found([[20, 40, 60, 60]], [0.5], [1])]
    assert len(merged(other_kind, windows, 10)) == 2
    doubtful = [found([[80, 40, 100, 60]], [0.9]), found([[20, 40, 60, 60]], [0.1])]
    assert len(merged(doubtful, windows, 10)) == 2
    assert len(merged(doubtful, windows, 1)) == 1
    # The border of the image cuts objects, too, but there is no window that sees more of them.
    at_border = [found([[0, 40, 20, 60]], [0.9]), found([[20, 40, 60, 60]], [0.5])]
    assert len(merged(at_border, windows, 10)) == 2


def test_a_detector_of_white_squares_finds_all_of_them() -> None:
    """Each once, where it is, however the windows fall; the number of calls is that of windows, and one more."""
    image = np.zeros((150, 400, 3), np.uint8)
    squares = [(5, 5), (88, 60), (200, 100), (380, 130)]
    for x, y in squares:
        image[y : y + 16, x : x + 16] = 255
    calls = []

    def predict(window: np.ndarray) -> Detections:
        calls.append(window.shape)
        boxes = []
        white = window[..., 0] > 0
        for y, x in zip(*np.nonzero(white), strict=True):
            if not white[y - 1 : y, x].any() and not white[y, x - 1 : x].any():
                right, bottom = x + np.argmin(np.append(white[y, x:], 0)), y + np.argmin(np.append(white[y:, x], 0))
                boxes.append([x, y, right, bottom])
        return found(boxes, [0.9] * len(boxes))

    slices = Slices(96, 0.3)
    boxes = sliced(predict, slices, 300)(image).boxes
    assert sorted(map(tuple, boxes[:, :2].astype(int).tolist())) == squares
    assert len(calls) == len(slices.windows((150, 400))) + 1
    calls.clear()
    sliced(predict, Slices(400), 300)(image)
    assert calls == [(150, 400, 3)]


def test_a_window_of_a_training_image_has_the_objects_in_it() -> None:
    """Whole, clipped, too little of it (then ignored), and not at all; crowds stay, regions are clipped."""
    boxes = np.array(
        [[10, 10, 20, 20], [25, 10, 35, 20], [29, 30, 39, 40], [60, 60, 70, 70], [0, 0, 64, 64]], np.float32
    )
    crowd = np.array([False, False, False, False, True])
    area = np.array([50.0, 100, 100, 100, 4096])
    ignored = np.array([[20, 20, 90, 90], [70, 0, 90, 10]], np.float32)
    sample = Sample(Path("a.png"), (100, 100), boxes, np.arange(5), area, crowd, ignored)
    part = cut(sample, (0, 5, 32, 37), Path("b.png"), 0.4)
    assert (part.image, part.size) == (Path("b.png"), (32, 32))
    assert part.boxes.tolist() == [[10, 5, 20, 15], [25, 5, 32, 15], [0, 0, 32, 32]]
    assert part.classes.tolist() == [0, 1, 4]
    assert part.area.tolist() == pytest.approx([50, 70, 1024])
    assert part.crowd.tolist() == [False, False, True]
    assert part.ignored.tolist() == [[20, 15, 32, 32], [29, 25, 32, 32]]


@pytest.mark.parametrize("wrong", [{"size": 8}, {"size": 64, "overlap": 1.0}])
def test_windows_that_cannot_be(wrong: dict[str, float]) -> None:
    """The field and the value are named."""
    with pytest.raises(UsageError, match="has to be"):
        Slices(**wrong)  # type: ignore[arg-type]


@given(SLICES)
def test_windows_have_a_name(slices: Slices) -> None:
    """By which they are found again."""
    again = Slices.parse(slices.name)
    assert (again.size, again.whole) == (slices.size, slices.whole)
    assert again.overlap == pytest.approx(slices.overlap, abs=1e-5)


@pytest.mark.parametrize("text", ["", "big", "640:", "640:0.2:0.3", "640:only:0.2", "16"])
def test_names_of_no_windows(text: str) -> None:
    """They are refused with what is written instead."""
    with pytest.raises(UsageError, match=r"640|at least 32"):
        Slices.parse(text)
