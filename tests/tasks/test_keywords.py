"""A clip is prepared as in training, and a stream of it makes the same frames, then the flush."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks import Heard, Keywords, contract_of, from_contract
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tasks.keywords import LOUDEST, stand_ins

RATE = 8000
TASK = Keywords(("yes", "no", "up"), Fbank(RATE, 10), frames=20, lookahead=3)
WINDOW, STEP = TASK.features.window, TASK.features.step
PADDING = TASK.features.normalise(np.zeros(10, np.float32))


def logits(*values: float) -> npt.NDArray[np.float32]:
    return np.array([values], np.float32)


def test_a_contract_survives_json() -> None:
    plain = json.loads(json.dumps(contract_of(TASK)))
    assert plain["kind"] == "keywords"
    assert plain["features"]["sample_rate"] == RATE
    assert from_contract(plain) == TASK
    assert from_contract({"kind": "keywords", "labels": ["a"]}) == Keywords(("a",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": []}, "at least one name"),
        ({"labels": ["a", "a"]}, "none twice"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 10**9}, "1000000"),
        ({"lookahead": -1}, "lookahead is -1"),
        ({"features": {"bins": 0}}, "bins is 0"),
        ({"features": {"bin": 1}}, "Did you mean 'bins'"),
        ({"frame": 3}, "Did you mean 'frames'"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_contract(contract_of(TASK) | change)


def test_a_clip_is_filled_up_before_normalisation_or_cut() -> None:
    short = babble(0, 0.1, RATE)
    prepared = TASK.prepare(short)
    (tensor,) = prepared.tensors
    assert (tensor.shape, tensor.dtype, prepared.context) == ((1, 20, 10), np.dtype(np.float32), 8)
    np.testing.assert_array_equal(tensor[0, :8], TASK.features.normalise(TASK.features.extract(short)))
    np.testing.assert_array_equal(tensor[0, 8:], np.tile(PADDING, (12, 1)))
    long = babble(0, 1.0, RATE)
    np.testing.assert_array_equal(
        TASK.prepare(long).tensors[0][0], TASK.features.normalise(TASK.features.extract(long))[:20]
    )


@given(st.integers(0, 2 * 20 * STEP), st.lists(st.integers(0, 700), max_size=6))
@settings(max_examples=40)
def test_a_stream_makes_the_frames_of_the_clip_then_the_flush(samples: int, cuts: list[int]) -> None:
    sound = babble(1, 1.0, RATE)[:samples]
    feed, at, steps = TASK.feed(), 0, []
    for length in [*cuts, samples]:
        steps += feed.push(sound[at : at + length])
        at += length
    steps += feed.finish()
    if samples < WINDOW:
        assert steps == []
        return
    assert all(frame.shape == (1, 10) and end.shape == (1, 1) for frame, end in steps)
    assert all(array.dtype == np.float32 for step in steps for array in step)
    heard = max(TASK.frames, TASK.features.count(samples))
    assert [float(end[0, 0]) for _, end in steps] == [0.0] * heard + [1.0] * TASK.lookahead
    frames = np.concatenate([frame for frame, _ in steps[: TASK.frames]])
    np.testing.assert_array_equal(frames, TASK.prepare(sound).tensors[0][0])


def test_a_stream_ends_once_and_begins_again() -> None:
    feed = TASK.feed()
    assert len(feed.push(babble(1, 0.1, RATE))) == 8
    assert len(feed.finish()) == 12 + 3
    assert feed.finish() == []
    with pytest.raises(UsageError, match="ended"):
        feed.push(np.zeros(3, np.float32))
    feed.reset()
    assert feed.finish() == []
    feed.reset()
    assert len(feed.push(babble(1, 0.1, RATE))) == 8


def test_a_stream_goes_on_from_its_state() -> None:
    sound = babble(2, 0.2, RATE)
    whole = TASK.feed()
    wanted = whole.push(sound) + whole.finish()
    first, second = TASK.feed(), TASK.feed()
    steps = first.push(sound[:777])
    second.restore(first.state())
    steps += second.push(sound[777:]) + second.finish()
    assert len(steps) == len(wanted)
    for step, other in zip(steps, wanted, strict=True):
        np.testing.assert_array_equal(np.concatenate(step, axis=1), np.concatenate(other, axis=1))
    assert first.state()["sound"].size < WINDOW
    with pytest.raises(UsageError, match=r"at 0\.097 s"):  # seconds are those of the whole stream
        first.push(np.full(80, np.nan, np.float32))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"sound": np.zeros(WINDOW, np.float32), "counts": np.zeros(3, np.int64)},
        {"sound": np.zeros(3), "counts": np.zeros(3, np.int64)},
        {"sound": np.zeros(3, np.float32), "counts": np.zeros(2, np.int64)},
        {"sound": np.zeros(3, np.float32), "counts": np.array([1, -1, 0])},
        {"sound": np.full(3, np.nan, np.float32), "counts": np.zeros(3, np.int64)},
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(state: dict[str, Any]) -> None:
    feed = TASK.feed()
    feed.push(babble(2, 0.0625, RATE))
    before = feed.state()
    with pytest.raises(UsageError):
        feed.restore(state)
    for name, array in feed.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (np.zeros(1000), "float64"),
        (np.zeros(1000, np.int16), "Divide 16 bit samples by 32768"),
        (np.zeros((1000, 2), np.float32), "Mix the channels"),
        ([0.0] * 1000, "list"),
        (np.r_[np.zeros(400, np.float32), np.float32(np.nan)], r"nan at 0\.050 s"),
        (np.r_[np.zeros(800, np.float32), np.float32(-np.inf)], r"-inf at 0\.100 s"),
        (np.full(1000, 2 * LOUDEST, np.float32), "in -1 to 1"),
    ],
)
def test_what_is_no_sound_is_refused(sound: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TASK.prepare(sound)
    with pytest.raises(UsageError, match=said):
        TASK.feed().push(sound)


def test_less_than_a_frame_says_how_much_it_takes() -> None:
    with pytest.raises(UsageError, match=r"199 samples .* at least 200 samples are needed \(25 ms at 8000 Hz\)"):
        TASK.prepare(np.zeros(199, np.float32))
    assert TASK.prepare(np.zeros(200, np.float32)).context == 1
    assert TASK.feed().push(np.zeros(0, np.float32)) == []


def test_outputs_become_scores() -> None:
    heard = TASK.finish([logits(0, 100, -1000)], 8)
    assert (heard.scores.tolist(), heard.scores.dtype, heard.frames) == ([0.5, 1, 0], np.dtype(np.float32), 20)
    assert TASK.heard([logits(0, 0, 0), np.zeros((1, 1), np.float32)]) is None
    after = TASK.heard([logits(0, 0, 0), np.full((1, 1), 7, np.float32)])
    assert after is not None
    assert (after.frames, after.scores.tolist()) == (7, [0.5] * 3)
    with pytest.raises(UsageError, match="3 labels"):
        TASK.finish([logits(0, 1)], None)
    with pytest.raises(UsageError, match="two tensors"):
        TASK.heard([logits(0, 1, 2)])


scores = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3)


@given(scores, scores)
def test_distance_is_a_share_of_what_was_heard(one: list[float], other: list[float]) -> None:
    first, second = (Heard(np.array(values, np.float32), 1) for values in (one, other))
    assert TASK.distance(first, first) == 0
    distance = TASK.distance(first, second)
    assert distance == TASK.distance(second, first)
    assert 0 <= distance <= 1
    far = np.argsort(one)[-1] != np.argsort(other)[-1] and min(np.sort(v)[-1] - np.sort(v)[-2] for v in (one, other))
    if far > 0.01:
        assert distance == 1


def test_distance_of_results_that_nobody_can_use() -> None:
    def heard(*values: float) -> Heard:
        return Heard(np.array(values, np.float32), 1)

    assert TASK.distance(heard(0.9, 0.1, 0), heard(0.8, 0.2, 0)) == pytest.approx(0.1)
    assert TASK.distance(heard(0.5, 0.5001, 0), heard(0.5001, 0.5, 0)) < 1e-3  # a tie that rounding decides
    assert TASK.distance(heard(0.9, 0.1, 0), heard(float("nan"), 0, 0)) == 1
    assert TASK.distance(heard(0, 0, 0), heard(0, 0, 0)) == 0


def test_stand_ins_are_sound_and_always_the_same() -> None:
    task = Keywords(("a",), Fbank(RATE, 10), frames=20)
    one, other = stand_ins(task)
    assert len(one) == 19 * STEP + WINDOW
    assert TASK.prepare(one).context == 20
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(stand_ins(task)[1], other)
    assert 0.05 < np.abs(one).max() <= 0.5
