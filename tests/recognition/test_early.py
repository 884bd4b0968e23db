from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.recognition.early import early, first_enough
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.resampling import Draw
from edgedeploy.report.early import PAPER, SAVING_COLUMNS, notes, picture, saving_rows, stop_rows
from edgedeploy.tasks.keywords import Keywords

TASK = Keywords(("a", "b"))
DRAW = Draw(100)
Make = Callable[..., Hearing]


def as_published(heard: Make) -> Hearing:
    """Clips of a second that become right at the four moments of the paper, in shares of its accuracies."""
    moments = np.repeat([36, 63, 87, 128, 999], [488, 381, 83, 9, 39])
    after = range(129)
    right = [[int(t >= m) for t in after] for m in moments]
    return heard(right, [f"{i}" for i in range(len(moments))], after=after)


def test_the_paper_and_the_honest_saving_are_both_there(heard: Make) -> None:
    found = early(as_published(heard), TASK, DRAW)
    saving = found.saving
    assert saving is not None
    assert (saving.heard, found.window, found.sound) == (87, 128, 98)
    assert saving.accuracy == pytest.approx(0.9517, abs=1e-3)
    assert saving.window.value == pytest.approx(0.3203, abs=1e-4)  # (128 - 87) / 128
    assert saving.sound.value == pytest.approx(11 / 98)
    assert saving.waited.value == pytest.approx(6 / 98)
    assert (PAPER.window_saved, PAPER.sound_saved, PAPER.waited_saved) == pytest.approx((41 / 128, 11 / 98, 6 / 98))
    at = found.curve[87]
    assert (at.heard, at.needed) == (87, 92)
    assert at.seconds == pytest.approx(0.935)
    assert found.curve[128].needed == 98  # no more than the clip has
    assert found.curve[0].accuracy == 0


def test_a_moment_is_enough_only_if_the_accuracy_stays() -> None:
    assert first_enough(np.array([0, 1.0, 0.5, 0.9, 1.0]), 0.9) == 3
    assert first_enough(np.array([0.5, 0.5])) == 0
    assert first_enough(np.array([[0.1, 1.0], [1.0, 1.0]])).tolist() == [1, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.5, 1))
def test_from_the_first_enough_on_all_is_enough(values: list[float], enough: float) -> None:
    accuracy = np.array(values)
    at = int(first_enough(accuracy, enough))
    assert (accuracy[at:] >= enough * accuracy[-1]).all()
    assert at == 0 or accuracy[at - 1] < enough * accuracy[-1]


def test_stopping_at_a_score_trades_sound_for_accuracy() -> None:
    after = (0, 10, 20)
    logits = np.array([[[0, 0], [0, 1], [9, 0]], [[0, 0], [4, 0], [9, 0]]], np.float32)  # the first is wrong at first
    hearing = Hearing(
        ("a", "b"), logits, np.array(after), np.array([30, 12]), np.zeros(2, np.int64), ("x", "y"), ("a/1", "a/2")
    )
    stops = {stop.threshold: stop for stop in early(hearing, TASK, DRAW).stops}
    hasty, patient, never = stops[0.5], stops[0.9], stops[0.9999]
    assert (hasty.accuracy, patient.accuracy, never.accuracy) == (0.5, 1.0, 1.0)
    assert hasty.seconds == pytest.approx((0.165 + 0.135) / 2)  # 10 + 5 frames; the end of a clip of 12
    assert patient.seconds == pytest.approx((0.265 + 0.135) / 2)
    assert (hasty.early, patient.early) == (0.5, 0.5)
    assert hasty.seconds < patient.seconds == never.seconds


def test_rows_and_picture_have_the_published_figures_beside_ours(heard: Make) -> None:
    found = early(as_published(heard), TASK, DRAW)
    rows = saving_rows([("ours", found)])
    assert all(len(row) == len(SAVING_COLUMNS) for row in rows)
    assert rows[-1] == ("published: Spiking LMUFormer", "95.2% of 96.1%", "87 of 128", "32.0%", "11.2%", "6.1%")
    assert rows[0][2] == "87 of 128"
    assert len(stop_rows(found)) == len(found.stops)
    pytest.importorskip("matplotlib")
    assert picture([("ours", found)], "title")[:8] == b"\x89PNG\r\n\x1a\n"


def test_all_right_is_not_certain_and_nothing_right_saves_nothing(heard: Make) -> None:
    after, speakers = (0, 10, 20), [f"{i % 4}" for i in range(12)]
    right = early(heard([[0, 0, 1]] * 12, speakers, after=after), TASK, DRAW)
    last = right.stops[-1]
    bounds = [*((m.accuracy, m.low, m.high) for m in right.curve), (last.accuracy, last.low, last.high)]
    assert bounds[0] == (0, 0, 0)  # before anything was heard there is no answer
    assert bounds[1] == pytest.approx((0, 0, 0.4899), abs=1e-4)  # Wilson: 0 of 4 speakers, not 0 of 12 clips
    assert bounds[2] == bounds[3] == pytest.approx((1, 0.5101, 1), abs=1e-4)
    wrong = early(heard([[0, 1, 0]] * 12, speakers, after=after), TASK, DRAW)
    assert wrong.saving is None
    row = saving_rows([("ours", wrong)])[0]
    assert row[:2] == ("ours", "0.0% at the end")
    assert "nothing to save" in row
    assert "leans upwards" in " ".join(notes(wrong))
    pytest.importorskip("matplotlib")
    assert picture([("ours", wrong)])[:4] == b"\x89PNG"


def test_a_replicate_without_a_right_answer_saves_nothing(heard: Make) -> None:
    hearing = heard([[0, 0, int(i == 0)] for i in range(12)], [f"{i}" for i in range(12)], after=(0, 10, 20))
    saving = early(hearing, TASK, DRAW).saving
    assert saving is not None
    assert (saving.window.value, saving.window.low, saving.window.high) == (0, 0, 0)  # and not up to 100 %


def test_final_answers_alone_decide_nothing_early(heard: Make) -> None:
    with pytest.raises(UsageError, match="after every frame"):
        early(heard([[1]], ["x"]), TASK)
