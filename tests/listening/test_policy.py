"""When scores become a decision."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.listening import Policy
from edgedeploy.listening.policy import Decider, Scores


def decided(policy: Policy, rows: list[list[float]], frames: int = 4) -> tuple[int, int, float] | None:
    """Number of the answer, from 1, that settles it, the word, and its score."""
    decider = Decider(policy, frames)
    for number, row in enumerate(rows, start=1):
        found = decider.take(np.array(row, np.float32), number)
        if found:
            return number, found[0], round(found[1], 6)
    return None


SURE, ELSE, UNSURE = [0.1, 0.9], [0.8, 0.2], [0.4, 0.3]


def test_patience_is_broken_by_another_word_and_by_a_low_score() -> None:
    policy = Policy(0.5, patience=3, least=0)
    assert decided(policy, [SURE, SURE, SURE]) == (3, 1, 0.9)
    assert decided(policy, [SURE, SURE, ELSE, SURE, SURE, SURE]) == (6, 1, 0.9)
    assert decided(policy, [SURE, SURE, UNSURE, SURE, SURE]) is None
    assert decided(policy, [ELSE, ELSE, ELSE]) == (3, 0, 0.8)
    assert decided(Policy(0.81, patience=1, least=0), [ELSE]) is None


def test_nothing_is_decided_on_few_frames() -> None:
    assert decided(Policy(patience=1), [SURE] * 9, frames=8) == (4, 1, 0.9)  # half of what the network takes
    assert decided(Policy(patience=3, least=5), [SURE] * 9) == (7, 1, 0.9)
    assert decided(Policy(patience=1, least=0), [SURE] * 9, frames=8) == (1, 1, 0.9)


def test_a_window_smooths_what_a_single_answer_would_settle() -> None:
    rows = [UNSURE, UNSURE, SURE, SURE]
    assert decided(Policy(0.6, patience=1, least=0), rows) == (3, 1, 0.9)
    assert decided(Policy(0.6, patience=1, least=0, smoothing=2), rows) == (3, 1, 0.6)
    assert decided(Policy(0.6, patience=1, least=0, smoothing=4), rows) == (4, 1, 0.6)


@settings(max_examples=30)
@given(
    rows=st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), max_size=12),
    cut=st.integers(0, 12),
    policy=st.builds(Policy, st.just(0.4), st.integers(1, 4), st.integers(0, 4), st.integers(1, 4)),
)
def test_it_goes_on_from_what_json_kept(rows: list[list[float]], cut: int, policy: Policy) -> None:
    scores: list[Scores] = [np.array(row, np.float32) for row in rows]
    whole, first, second = (Decider(policy, 4) for _ in range(3))
    wanted = [whole.take(one, i) for i, one in enumerate(scores)]
    got = [first.take(one, i) for i, one in enumerate(scores[:cut])]
    second.restore(json.loads(json.dumps(first.save())))
    assert got + [second.take(one, i) for i, one in enumerate(scores[cut:], start=cut)] == wanted


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threshold": 1.1}, "threshold is between 0 and 1, not 1.1"),
        ({"threshold": float("nan")}, "threshold is between 0 and 1, not nan"),
        ({"onset": -0.1}, "onset is between 0 and 1"),
        ({"patience": 0}, "patience is a number of frames from 1 up, not 0"),
        ({"smoothing": -3}, "smoothing is a number of frames from 1 up"),
        ({"least": -1}, "least is a number of frames from 0 up"),
        ({"refractory": float("inf")}, "refractory period cannot be inf s"),
    ],
)
def test_values_that_cannot_be_meant(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Policy(**wrong)  # type: ignore[arg-type]
