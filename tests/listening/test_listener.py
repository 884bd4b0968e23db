"""A clip has one answer and a recording has words; both wherever the sound is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.listening import Account, Answer, Decision, Event, Listener, Policy, Tally, Utterance
from edgedeploy.opening import Rehearsal
from edgedeploy.records import to_json
from edgedeploy.stream import Stream
from edgedeploy.tasks import Detect
from edgedeploy.testing import FakeSession, FakeTask
from tests.listening.ear import RATE, SIGNATURE, TASK, Ear, Sound, quiet, stream, tone

POLICY = Policy(threshold=0.5, patience=3, least=10, refractory=0.4)
WORDS = np.concatenate(
    [quiet(0.5), tone("no", 0.4), quiet(0.7), tone("down", 0.4), quiet(0.9), tone("yes", 0.3), quiet(0.313)]
)


def plain(events: list[Event]) -> list[Any]:
    """Comparable."""
    return [{**to_json(e), "scores": e.scores.tobytes()} if isinstance(e, Answer) else e for e in events]


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_clip_is_decided_early_and_answered_at_its_end() -> None:
    one = Listener(stream(), POLICY)
    sound = np.concatenate([tone("up", 0.3), tone("no", 0.2)])
    events = one.push(sound) + one.finish()
    (decision,), (utterance,) = of(Decision, events), of(Utterance, events)
    assert events[-1] == utterance
    assert utterance.decision is decision
    assert (decision.word, decision.frames) == ("up", 12)  # the third from the tenth on
    assert (decision.rested, decision.waited) == (0.135, 0.155)  # 25 + 11 * 10 ms, and two frames of look-ahead
    assert (utterance.begin, utterance.seconds, utterance.frames) == (0.0, 0.5, TASK.frames)
    assert [word for word, _ in utterance.top][:2] == ["up", "no"]
    assert utterance.top[0][1] >= utterance.top[1][1] >= utterance.top[2][1]
    assert utterance.peak == pytest.approx(0.5)
    assert utterance.doubts == ()
    answers = of(Answer, events)
    assert [one.frames for one in answers] == list(range(1, TASK.frames + 1))
    assert max(one.waited for one in answers) == 0.5  # what a clip is filled up with was not waited for
    assert answers[-1].rested == 0.5


def test_continuous_listening_finds_words_where_they_are() -> None:
    one = Listener(stream(), POLICY, continuous=True)
    events = one.push(WORDS) + one.finish()
    heard = of(Utterance, events)
    words = [(u.decision.word if u.decision else None) for u in heard]
    begins = [round(u.begin, 2) for u in heard]
    decided = [(word, begin) for word, begin in zip(words, begins, strict=True) if word]
    assert decided == [("no", 0.4), ("down", 1.5), ("yes", 2.8)]  # 0.1 s before the onset
    assert all(u.frames < TASK.frames for u in heard if u.decision)
    assert one.seconds == len(WORDS) / RATE


def test_silence_is_not_listened_to_unless_asked() -> None:
    one = Listener(stream(), POLICY, continuous=True)
    assert one.push(quiet(5.0)) + one.finish() == []
    asked = Listener(stream(), replace(POLICY, onset=0.0, threshold=1.0), continuous=True)
    heard = of(Utterance, asked.push(quiet(2.0)) + asked.finish())
    assert [u.frames for u in heard] == [TASK.frames] * len(heard)  # a fresh one after as many frames as it takes
    assert [round(u.begin, 2) for u in heard] == [0.0, 0.68, 1.36]
    assert all("silence: the loudest sample is 0 of full scale" in u.doubts[0] for u in heard)


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, len(WORDS)), max_size=5).map(sorted), continuous=st.booleans())
def test_the_cuts_change_nothing_nor_does_stopping_at_one(cuts: list[int], continuous: bool) -> None:
    policy = replace(POLICY, smoothing=2)
    whole = Listener(stream(), policy, continuous)
    wanted = plain(whole.push(WORDS) + whole.finish())
    one, events = Listener(stream(), policy, continuous), []
    for piece in np.split(WORDS, cuts):
        state = one.save()
        one = Listener(stream(), policy, continuous)
        one.resume(state)
        events += one.push(piece)
    assert plain(events + one.finish()) == wanted


def test_a_state_of_another_kind_of_listening() -> None:
    clip, endless = Listener(stream(), POLICY), Listener(stream(), POLICY, continuous=True)
    with pytest.raises(UsageError, match="state is of a single clip, and this is continuous listening"):
        endless.resume(clip.save())
    with pytest.raises(UsageError, match="not that of listening for words"):
        clip.resume(stream().save())
    state = clip.save()
    with pytest.raises(UsageError, match="not that of listening for words"):
        clip.resume(replace(state, context={"listener": {**state.context["listener"], "decider": 3}}))
    with pytest.raises(UsageError, match="not that of listening for words"):
        clip.resume(replace(state, context={"listener": {**state.context["listener"], "taken": float("inf")}}))


def test_doubts() -> None:
    one = Listener(stream(), POLICY)
    (silent,) = of(Utterance, one.push(1e-4 * tone("up", 0.5)) + one.finish())
    assert "silence" in silent.doubts[0]
    one.reset()
    (long,) = of(Utterance, one.push(tone("up", 2.0)) + one.finish())
    assert "198 frames, and the network takes 64 at once" in long.doubts[0]


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (np.array([0.1, np.nan], np.float32), r"The sound is nan at 0\.101 s"),
        (np.zeros((9, 2), np.float32), "mono"),
        (np.zeros(9), "float32"),
    ],
)
def test_what_is_no_sound_is_refused_and_nothing_is_lost(continuous: bool, sound: Sound, said: str) -> None:
    one, other = (Listener(stream(), POLICY, continuous) for _ in range(2))
    one.push(WORDS[:100])
    other.push(WORDS[:100])
    with pytest.raises(UsageError, match=said):
        one.push(sound)
    assert plain(one.push(WORDS[100:]) + one.finish()) == plain(other.push(WORDS[100:]) + other.finish())


def test_what_is_too_short_and_what_has_ended() -> None:
    one = Listener(stream(), POLICY)
    one.push(tone("up", 0.024))
    with pytest.raises(UsageError, match=r"0\.024 s of sound are too short for an answer: a frame takes 0\.025 s"):
        one.finish()
    with pytest.raises(UsageError, match="has ended"):
        one.push(WORDS)
    endless = Listener(stream(), POLICY, continuous=True)
    endless.push(tone("up", 0.024))
    assert endless.finish() == []
    with pytest.raises(UsageError, match="has ended"):
        endless.push(WORDS)


def test_a_detector_does_not_listen() -> None:
    with pytest.raises(UsageError, match="'detect' takes samples one by one"):
        Stream(Detect(("car",), (640, 640)), FakeSession(), SIGNATURE)
    with pytest.raises(UsageError, match="'fake' takes samples"):
        Stream(FakeTask(), FakeSession(), SIGNATURE)


def test_a_rehearsal_says_so() -> None:
    tally = Tally(Listener(stream(Rehearsal(Ear(), "jetson", "it is not here")), POLICY))
    assert tally.account("a.wav").doubts == (
        "a rehearsal: this is ear on the files that jetson is built from, and not what the bundle was made for.",
    )


def test_an_account_has_what_was_decided_and_counts_the_rest() -> None:
    tally = Tally(Listener(stream(), replace(POLICY, refractory=0.0), continuous=True))
    tally.push(WORDS)
    tally.push(tone("up", 0.1, loud=0.3), lost=True)
    tally.finish()
    account = tally.account("a.wav")
    assert [u.decision.word for u in account.utterances if u.decision][:2] == ["no", "no"]  # it sounds on
    assert all(u.decision for u in account.utterances)
    assert account.undecided > 0
    assert account.seconds == pytest.approx(len(WORDS) / RATE + 0.1)
    assert account.doubts == ("sound was lost 1 times: this machine did not take it as fast as it came.",)
    assert account.real_time_factor == account.computing / account.seconds
    assert np.isnan(Account("b", 0.0, 0.0, ()).real_time_factor)
