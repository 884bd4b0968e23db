"""Pictures: side by side, captioned, with a box where a detection is, and nothing where none is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.report.pictures import CAPTION, GAP, PANEL, side_by_side
from edgedeploy.tasks.detect import Detections

LABELS = ("car", "a class with a rather long name")


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def grey(path: Path, height: int, width: int) -> Path:
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
    return path


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("height", "width"), [(210, 320), (1000, 100), (7, 500), (1, 1)])
@pytest.mark.parametrize("panels", [1, 2, 3])
def test_the_sheet_has_room_for_every_panel(height: int, width: int, panels: int, tmp_path: Path) -> None:
    image = grey(tmp_path / "a.png", height, width)
    path = side_by_side(tmp_path / "new" / "sheet.png", image, [("here", found())] * panels, LABELS)
    one = max(1, round(width * PANEL / height))
    assert pixels(path).shape == (PANEL + CAPTION, panels * one + (panels - 1) * GAP, 3)


def test_a_box_is_drawn_where_it_is_and_on_its_own_panel(tmp_path: Path) -> None:
    image = grey(tmp_path / "a.png", 210, 210)  # twice as large on the panel
    sheet = side_by_side(
        tmp_path / "sheet.png", image, [("one", found((50, 60, 100, 160, 0.9, 0))), ("other", found())], LABELS
    )
    drawn = pixels(sheet)[CAPTION:]
    left, right = drawn[:, :PANEL], drawn[:, PANEL + GAP :]
    assert (right == 90).all()
    rows, columns = np.nonzero((left != 90).any(axis=2))
    assert (columns.min(), rows.max()) == (100, 320)
    assert columns.max() == 200
    assert abs(int(rows.min()) - 120) <= 14  # a label stands above
    inside = left[130:310, 110:190]
    assert (inside == 90).all()


def test_what_is_not_likely_is_not_drawn_and_not_counted(tmp_path: Path) -> None:
    image = grey(tmp_path / "a.png", 210, 210)
    unlikely, none = found((50, 60, 100, 160, 0.2, 0)), found()
    sheets = [
        pixels(side_by_side(tmp_path / "sheet.png", image, [("a", detections)], LABELS))
        for detections in (unlikely, none)
    ]
    np.testing.assert_array_equal(sheets[0], sheets[1])
    shown = side_by_side(tmp_path / "shown.png", image, [("a", unlikely)], LABELS, confidence=0.1)
    assert (pixels(shown) != sheets[0]).any()


def test_classes_have_colours_of_their_own(tmp_path: Path) -> None:
    image = grey(tmp_path / "a.png", 210, 210)
    many = tuple(f"class {i}" for i in range(80))
    colours = set()
    for kind in range(6):
        sheet = side_by_side(tmp_path / "s.png", image, [("", found((50, 60, 100, 160, 0.9, kind)))], many)
        colours.add(tuple(pixels(sheet)[CAPTION + 320, 150]))
    assert len(colours) == 6


def test_boxes_at_and_over_the_edge_are_no_trouble(tmp_path: Path) -> None:
    image = grey(tmp_path / "a.png", 50, 80)
    edges = found((0, 0, 80, 50, 0.9, 1), (-5, -5, 3, 3, 0.8, 0), (70, 40, 200, 200, 0.7, 1), (10, 10, 10, 10, 0.6, 0))
    assert side_by_side(tmp_path / "sheet.png", image, [("edges", edges)], LABELS).is_file()


def test_an_image_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"a\.png"):
        side_by_side(tmp_path / "sheet.png", tmp_path / "a.png", [("", found())], LABELS)
    assert not (tmp_path / "sheet.png").exists()


def test_without_pillow_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = grey(tmp_path / "a.png", 50, 80)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[images\]'$"):
        side_by_side(tmp_path / "sheet.png", image, [("", found())], LABELS)
