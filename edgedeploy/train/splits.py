"""Which clips are learnt from, which the best epoch is chosen by, and which it is judged on at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgedeploy.errors import UsageError
from edgedeploy.tasks.clips import ClipSet, hold_out, speaker_folds
from edgedeploy.tasks.speech_files import DIGITS, LISTS, Unlisted, read_clips

#: Of a set without clips to validate on, one part in so many is taken for it.
PARTS = 10

_FOLD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Splits:
    """Three sets without a clip in common, the last empty where there is nothing to test on.

    ``notes`` say what was not given by the data, or is wrong with it.
    """

    train: ClipSet
    val: ClipSet
    test: ClipSet | None
    notes: tuple[str, ...]


def split(folder: Path, held: str = "") -> Splits:
    """The parts of a data set.

    Args:
        folder: the data.
        held: speakers that are tested on, and not trained on: names with commas between, or ``2/5``, the second of
            five folds of all speakers. Where it is empty, the parts are those of the data.

    Raises:
        UsageError: there is no such data, nobody of that name speaks, the speakers are not known, or what is left to
            train on is of less than two words.
    """
    rest, test = _tested(folder, held)
    val = None if held else _own(folder, "val")
    notes = [*rest.faults] if test else [*rest.faults, _untested(folder, rest)]
    if val is None:
        rest, val, note = _validated(rest)
        notes.append(note)
    notes += _lacking(rest)
    return Splits(rest, val, test, tuple(notes))


def _tested(folder: Path, held: str) -> tuple[ClipSet, ClipSet | None]:
    """What is left, and what is tested on."""
    if not held:
        try:
            return read_clips(folder, "train"), _own(folder, "test")
        except Unlisted:
            return _all_but_val(folder), None
    clips = read_clips(folder, "all")
    fold = _FOLD.fullmatch(held)
    if fold:
        number, of = int(fold[1]), int(fold[2])
        folds = speaker_folds(clips, of)
        if not 1 <= number <= of:
            raise UsageError(f"There is no fold {held} of the speakers: the first is 1/{of}, the last {of}/{of}.")
        rest, test = folds[number - 1]
    else:
        rest, test = hold_out(clips, [name.strip() for name in held.split(",") if name.strip()])
    return replace(rest, split="train"), replace(test, split="test")


def _all_but_val(folder: Path) -> ClipSet:
    """What there is to train on where nothing is said to be for the test."""
    clips, val = read_clips(folder, "all"), _own(folder, "val")
    kept = {clip.path for clip in val.clips} if val else set()
    rest = clips.subset(index for index, clip in enumerate(clips.clips) if clip.path not in kept)
    return replace(rest, split="train")


def _own(folder: Path, part: Literal["val", "test"]) -> ClipSet | None:
    """A part that the data has itself; ``None`` where it has not. Other parts of it could be read."""
    try:
        return read_clips(folder, part)
    except UsageError:
        return None


def _untested(folder: Path, clips: ClipSet) -> str:
    """A sentence on why nothing is tested on, and what to do about it."""
    file = LISTS["test"]
    why = f"{file} names no recording that is there" if (folder / file).is_file() else f"there is no {file}"
    ways = [f"list some in {file}, a line word/file for each"]
    if clips.labels == DIGITS:  # these are not listed
        why, ways = "there is no take that is for the test", ["record takes 0 to 4"]
    if not all(clip.speaker for clip in clips.clips):
        ways.append("name the files <speaker>_nohash_<number>.wav and hold speakers out with --hold-out")
    elif len(clips.speakers) > 1:
        ways.append(f"hold out some of the {len(clips.speakers)} speakers with --hold-out")
    return (
        f"{clips.name} has no clips to test on ({why}): all are trained or validated on. "
        f"For test clips {', or '.join(ways)}."
    )


def _validated(clips: ClipSet) -> tuple[ClipSet, ClipSet, str]:
    """What is left to train on, what is validated on, and a sentence that says so."""
    if len(clips.speakers) >= PARTS and all(clip.speaker for clip in clips.clips):
        rest, val = speaker_folds(clips, PARTS)[0]
        how = f"{len(val.speakers)} of {len(clips.speakers)} speakers"
    else:
        order = sorted(range(len(clips)), key=lambda i: (clips.clips[i].word, clips.clips[i].speaker, i))
        taken = set(order[min(PARTS // 2, len(order) - 1) :: PARTS])
        val = clips.subset(sorted(taken))
        rest = clips.subset(index for index in range(len(clips)) if index not in taken)
        how = f"one in {PARTS}, evenly over words and speakers"
    note = f"Validated on {len(val)} clips of {clips.name} that are not trained on: {how}."
    return replace(rest, split="train"), replace(val, split="val"), note


def _lacking(clips: ClipSet) -> Sequence[str]:
    """A sentence about words that nothing is learnt of.

    Raises:
        UsageError: there is nothing to tell apart.
    """
    words = Counter(clip.word for clip in clips.clips)
    if len(words) < 2:
        raise UsageError(
            f"{clips.name} has {len(clips)} clips of {len(words)} word{'s'[: len(words) != 1]} to train on; "
            "at least 2 words are needed to tell apart."
        )
    none = [label for index, label in enumerate(clips.labels) if not words[index]]
    return [f"No clip to train on has the word {', '.join(none)}."] if none else []
