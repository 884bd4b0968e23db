"""Sets of recordings: who is held out, and what makes two sets the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks.clips import Clip, ClipSet, hold_out, load_clips, speaker_folds


def clip_set(*speakers: str) -> ClipSet:
    clips = tuple(Clip(Path(f"{i}.wav"), i % 2, speaker) for i, speaker in enumerate(speakers))
    return ClipSet("set", ("yes", "no"), clips, "all")


def test_a_speaker_is_held_out_with_all_that_he_said() -> None:
    rest, held = hold_out(clip_set("ann", "bob", "ann", "cyd"), ["ann"])
    assert (rest.speakers, held.speakers) == (("bob", "cyd"), ("ann",))
    assert [clip.path.name for clip in held.clips] == ["0.wav", "2.wav"]
    assert rest.labels == held.labels == ("yes", "no")


@pytest.mark.parametrize(
    ("data", "speakers", "said"),
    [
        (clip_set("ann", "bob"), ["bop"], "Did you mean 'bob'"),
        (clip_set("ann", "bob"), ["ann", "bob"], "leaves nothing"),
        (clip_set("ann", "bob"), [], "leaves nothing"),
        (clip_set("ann", ""), ["ann"], "does not say who speaks in 1 of its 2 clips"),
        (clip_set("ann", "ann"), ["ann"], "speakers known: 1"),
    ],
)
def test_what_cannot_be_held_out_is_said(data: ClipSet, speakers: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hold_out(data, speakers)


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(2, 7))
def test_folds_hold_out_every_speaker_once(speakers: list[str], count: int) -> None:
    data = clip_set(*speakers)
    known = len(data.speakers)
    if not 2 <= count <= known:
        with pytest.raises(UsageError):
            speaker_folds(data, count)
        return
    folds = speaker_folds(data, count)
    assert sorted(name for _, held in folds for name in held.speakers) == list(data.speakers)
    for rest, held in folds:
        assert not set(rest.speakers) & set(held.speakers)
        assert len(rest) + len(held) == len(data)
    most = max(speakers.count(name) for name in data.speakers)
    sizes = [len(held) for _, held in folds]
    assert max(sizes) - min(sizes) <= most  # balanced as far as whole speakers go
    assert speaker_folds(data, count) == folds
    assert [held.speakers for _, held in speaker_folds(data)] != []
    assert all(len(held.speakers) == 1 for _, held in speaker_folds(data))


def test_a_digest_changes_with_all_that_counts(tmp_path: Path) -> None:
    def made(folder: str, content: bytes = b"sound", word: int = 0, speaker: str = "ann", label: str = "yes") -> str:
        path = tmp_path / folder / "clip.wav"
        path.parent.mkdir()
        path.write_bytes(content)
        return ClipSet("set", (label, "no"), (Clip(path, word, speaker),), "all").digest()

    same = made("a")
    assert made("b") == same  # the name of a file does not count
    others = {made("c", b"other"), made("d", word=1), made("e", speaker="bob"), made("f", label="up")}
    assert len(others | {same}) == 5
    with pytest.raises(UsageError, match=r"gone\.wav cannot be read"):
        ClipSet("set", ("yes",), (Clip(tmp_path / "gone.wav", 0, ""),), "all").digest()


def test_sound_is_read_when_asked_for(shared: Path) -> None:
    pytest.importorskip("soxr")
    folder = shared / "data" / "fsdd" / "recordings"
    data = ClipSet("two", ("zero",), (Clip(folder / "0_theo_1.wav", 0, "theo"), Clip(folder / "no.wav", 0, "x")), "all")
    sounds = load_clips(data, 16000, resample=True)
    assert len(sounds) == 2
    assert (sounds[0].dtype, sounds[0].ndim) == (np.dtype(np.float32), 1)
    assert abs(len(sounds[0]) - 2 * len(sounds.at(8000)[0])) <= 1
    assert len(sounds[:1]) == 1
    with pytest.raises(UsageError, match="does not exist"):
        sounds[1]
    with pytest.raises(UsageError, match="8000 Hz, and 16000 Hz"):
        load_clips(data, 16000)[0]
