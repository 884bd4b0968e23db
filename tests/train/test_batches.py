"""Splits, clips in memory, and the batches of an epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedeploy.errors import UsageError
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tasks.keywords import Keywords
from edgedeploy.tasks.speech_files import read_clips
from edgedeploy.train import bank as banks
from edgedeploy.train.bank import Bank, Window, read_bank
from edgedeploy.train.batches import batches
from edgedeploy.train.recipe import Recipe, read_recipe
from edgedeploy.train.splits import split
from tests.train.conftest import RATE, TINY, soundfile

PLAIN = {f"augmentation.{name}": 0 for name in ("mixup", "frequency_mask", "time_mask", "noise", "roll")}


def tiny(**changes: Any) -> Recipe:
    return read_recipe("paper", {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}})


def banked(folder: Path, recipe: Recipe, part: str = "train") -> Bank:
    return read_bank(read_clips(folder, part), Window(recipe.features, recipe.network.frames))


def test_without_augmentation_a_network_is_trained_on_what_the_task_prepares(tones: Path) -> None:
    recipe = read_recipe("paper", {**TINY, **PLAIN})
    bank = banked(tones, recipe)
    task = Keywords(bank.clips.labels, recipe.features, recipe.network.frames)
    seen = torch.cat([features for features, _ in batches(bank, recipe, 0)])
    order = np.random.default_rng([0, 0]).permutation(len(bank))
    for row, index in zip(seen, order, strict=True):
        clip = bank.clips.clips[int(index)]
        (prepared,) = task.prepare(read_audio(clip.path, RATE)).tensors
        np.testing.assert_array_equal(row.numpy(), prepared[0])


def test_an_epoch_has_every_clip_once_and_follows_from_seed_and_epoch(tones: Path) -> None:
    recipe = tiny(augmentation__speed=0.1)
    bank = banked(tones, recipe)
    first, again, later = (list(batches(bank, recipe, epoch)) for epoch in (0, 0, 1))
    assert [len(features) for features, _ in first] == [16, 14]
    for (one, labels), (other, same) in zip(first, again, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(labels, same)
        assert torch.allclose(labels.sum(dim=1), torch.ones(len(labels)))
        assert torch.isfinite(one).all()
    assert not torch.equal(first[0][0], later[0][0])
    other_seed = tiny(augmentation__speed=0.1, training__seed=1)
    assert not torch.equal(first[0][0], next(iter(batches(bank, other_seed, 0)))[0])


def test_about_as_many_clips_are_mixed_as_asked_with_a_share_around_a_half(tones: Path) -> None:
    recipe = tiny()
    bank = banked(tones, recipe)
    labels = torch.cat([labels for epoch in range(12) for _, labels in batches(bank, recipe, epoch)])
    two = labels[(labels > 0).sum(dim=1) == 2]
    assert abs(len(two) / len(labels) - 0.6 * 2 / 3) < 0.08  # a partner of the same word in one of three
    assert abs(float(two.amax(dim=1).mean()) - 0.59) < 0.03


@pytest.mark.parametrize(("clips", "sizes"), [(33, [16, 17]), (32, [16, 16]), (17, [17]), (2, [2]), (34, [16, 16, 2])])
def test_no_batch_is_of_a_single_clip(tones: Path, clips: int, sizes: list[int]) -> None:
    recipe = tiny()
    found = read_clips(tones, "all").subset(range(clips))
    bank = read_bank(found, Window(recipe.features, recipe.network.frames))
    assert [len(features) for features, _ in batches(bank, recipe, 0)] == sizes


def test_features_that_are_not_kept_are_the_same(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny()
    kept = banked(tones, recipe)
    monkeypatch.setattr(banks, "KEPT", 1)
    computed = banked(tones, recipe)
    assert kept.kept
    assert not computed.kept
    np.testing.assert_array_equal(kept.normalised(range(3)), computed.normalised(range(3)))


def test_a_clip_without_a_frame_is_left_out_and_told_of(tmp_path: Path) -> None:
    for word in ("a", "b"):
        (tmp_path / word).mkdir()
        soundfile.write(tmp_path / word / "x_nohash_0.wav", np.full(2000, 0.1, np.float32), RATE)
    soundfile.write(tmp_path / "a" / "y_nohash_0.wav", np.full(20, 0.1, np.float32), RATE)
    bank = banked(tmp_path, tiny(), "all")
    assert (len(bank), len(bank.clips), len(bank.words)) == (2, 2, 2)
    assert "'y_nohash_0.wav'" in bank.clips.faults[-1]


def test_the_parts_of_the_data_are_taken_where_there_are_any(tones: Path) -> None:
    found = split(tones)
    assert (found.train.speakers, found.val.speakers) == (("ann", "dee"), ("bob",))
    assert found.test is not None
    assert found.test.speakers == ("cy",)
    assert found.notes == ()


@pytest.mark.parametrize("held", ["cy", "cy, bob", "1/4"])
def test_speakers_held_out_are_in_no_other_part(tones: Path, held: str) -> None:
    found = split(tones, held)
    assert found.test is not None
    paths = [{clip.path for clip in part.clips} for part in (found.train, found.val, found.test)]
    assert len(set.union(*paths)) == sum(map(len, paths)) == 60
    assert not set(found.test.speakers) & {*found.train.speakers, *found.val.speakers}
    assert "Validated on" in found.notes[0]
    assert len({clip.word for clip in found.val.clips}) >= 2


def test_folds_hold_every_speaker_out_once(tones: Path) -> None:
    parts = [split(tones, f"{number}/3").test for number in (1, 2, 3)]
    said = [speaker for part in parts if part is not None for speaker in part.speakers]
    assert sorted(said) == ["ann", "bob", "cy", "dee"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("eve", "no speaker 'eve'"),
        ("5/4", "no fold 5/4"),
        ("0/4", "no fold 0/4"),
        ("1/9", "4 speakers"),
        (" , ", "held out"),
        ("²/5", "no speaker '²/5'"),
        ("9" * 5000 + "/5", "no speaker '999"),
    ],
)
def test_speakers_that_cannot_be_held_out(tones: Path, held: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split(tones, held)


def test_one_word_and_unknown_speakers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "a" / f"{number}.wav", np.zeros(800, np.float32), RATE)
    with pytest.raises(UsageError, match="does not say who speaks"):
        split(tmp_path, "ann")
    with pytest.raises(UsageError, match="of 1 word to train on"):
        split(tmp_path)
    (tmp_path / "testing_list.txt").write_text("a/0.wav\n")
    with pytest.raises(UsageError, match="of 1 word to train on"):
        split(tmp_path)


def plain(root: Path, name: str = "{0}.wav") -> Path:
    for word in ("a", "b"):
        (root / word).mkdir(parents=True)
        for number in range(10):
            soundfile.write(root / word / name.format(number), np.full(800, 0.1, np.float32), RATE)
    return root


@pytest.mark.parametrize(
    ("name", "way"),
    [("{0}.wav", "name the files <speaker>_nohash_<number>.wav"), ("{0}_nohash_0.wav", "some of the 10 speakers")],
)
def test_a_folder_of_words_without_lists_is_trained_on_and_tells_how_to_test(
    tmp_path: Path, name: str, way: str
) -> None:
    found = split(plain(tmp_path / "own", name))
    assert found.test is None
    assert (len(found.train) + len(found.val), len(found.val)) == (20, 2)
    said = [note for note in found.notes if "no clips to test on (there is no testing_list.txt)" in note]
    assert len(said) == 1
    assert way in said[0]
    assert "--hold-out" in said[0]


def test_a_list_of_validation_clips_alone_is_kept_to(tmp_path: Path) -> None:
    root = plain(tmp_path / "own")
    (root / "validation_list.txt").write_text("a/0.wav\nb/0.wav\n")
    found = split(root)
    assert (len(found.train), [clip.path.name for clip in found.val.clips]) == (18, ["0.wav", "0.wav"])
    assert len(found.notes) == 1


@pytest.mark.parametrize("listed", ["", "a/gone.wav\n"])
def test_a_test_list_that_names_nothing_is_told_of(tmp_path: Path, listed: str) -> None:
    root = plain(tmp_path / "own")
    (root / "testing_list.txt").write_text(listed)
    found = split(root)
    assert found.test is None
    assert any("testing_list.txt names no recording that is there" in note for note in found.notes)


def test_digits_without_takes_to_test_on_are_not_sent_to_a_list(tmp_path: Path) -> None:
    for digit, take in ((0, 5), (1, 5), (0, 6), (1, 6)):
        soundfile.write(tmp_path / f"{digit}_ann_{take}.wav", np.full(800, 0.1, np.float32), RATE)
    (note,) = [note for note in split(tmp_path).notes if "to test on" in note]
    assert "record takes 0 to 4" in note
    assert "list" not in note


@pytest.mark.parametrize(("value", "said"), [(32768.0, "the sound is 32768.0 at 0.125 s"), (np.nan, "nan, at 0.125 s")])
def test_what_no_keyword_model_takes_is_not_trained_on(tmp_path: Path, value: float, said: str) -> None:
    root = plain(tmp_path / "own")
    sound = np.full(800, 0.1, np.float32)
    sound[500] = value
    soundfile.write(root / "b" / "loud.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(UsageError, match=f"loud.wav .*{said}"):
        banked(root, tiny(), "all")


def test_real_digits_are_split_by_take_and_validated_on_every_word_and_speaker(shared: Path) -> None:
    found = split(shared / "data" / "fsdd")
    assert found.test is not None
    assert (len(found.train) + len(found.val), len(found.test)) == (2700, 300)
    assert len({(clip.word, clip.speaker) for clip in found.val.clips}) == 60
    assert len(found.val) == 270
    held = split(shared / "data" / "fsdd", "theo")
    assert held.test is not None
    assert (len(held.test), held.train.speakers) == (500, ("george", "jackson", "lucas", "nicolas", "yweweler"))


def test_labels_without_a_clip_to_learn_from_are_told_of(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(folder: Path, part: str) -> Any:
        found = read_clips(folder, part)
        return replace(found, clips=tuple(clip for clip in found.clips if clip.word != 1)) if part == "train" else found

    monkeypatch.setattr("edgedeploy.train.splits.read_clips", lacking)
    assert split(tones).notes == ("No clip to train on has the word low.",)
