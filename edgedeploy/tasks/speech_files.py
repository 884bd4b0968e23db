"""Sets of spoken words on disk: folders as of Speech Commands, and recordings as of the Free Spoken Digit Dataset."""

from __future__ import annotations

import re
from pathlib import Path

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.tasks.audio import SUFFIXES
from edgedeploy.tasks.clips import Clip, ClipSet

SPLITS = ("train", "val", "test", "all")

#: The order of the 35 words of Speech Commands v0.02 in models that follow AST, LMUFormer among them
#: (speechcommands_class_labels_indices.csv of their code).
WORDS = (
    *("backward", "follow", "five", "bed", "zero", "on", "learn", "two", "house", "tree", "dog", "stop", "seven"),
    *("eight", "down", "six", "forward", "cat", "right", "visual", "four", "wow", "no", "nine", "off", "three", "left"),
    *("marvin", "yes", "up", "sheila", "happy", "bird", "go", "one"),
)
#: What the digits in the file names of the Free Spoken Digit Dataset say; so its clips and the digits of Speech
#: Commands are the same words.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: Takes below this are the test part of the Free Spoken Digit Dataset, by its own rule.
_TEST_TAKES = 5
#: Parts of the layout of Speech Commands, and the files that say what is in them, a line word/file for each.
LISTS = {"test": "testing_list.txt", "val": "validation_list.txt"}
_SPEAKER = re.compile(r"(.+)_nohash_\d+$")
_DIGIT = re.compile(r"([0-9])_([^_]+)_([0-9]+)$")


class Unlisted(UsageError):
    """A folder of words has no list that says what is in a split of it."""


def read_clips(path: str | Path, split: str) -> ClipSet:
    """The recordings in a folder; ``split`` is train, val, test or all.

    Known are two layouts. Speech Commands: a folder per word, testing_list.txt and validation_list.txt with the files
    of two parts, and the rest to train on; a speaker is what stands before ``_nohash_`` in a file's name; folders that
    begin with ``_`` are passed over. The Free Spoken Digit Dataset: recordings/<digit>_<speaker>_<take>.wav, takes 0 to
    4 for the test, the others to train on.

    Raises:
        Unlisted: it does not say what is in this split.
        UsageError: no such layout, or nothing in it.
    """
    path = Path(path)
    if split not in SPLITS:
        raise UsageError(f"There is no split '{split}'.{did_you_mean(split, SPLITS)}")
    if not path.is_dir():
        raise UsageError(f"{path} is no folder. A set of recordings is a folder, as of Speech Commands.")
    try:
        recordings = path / "recordings" if (path / "recordings").is_dir() else path
        if any(_DIGIT.match(file.stem) for file in _sounds(recordings)):
            return _digits(recordings, split)
        return _words(path, split)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error


def is_clips(path: Path) -> bool:
    """Whether `read_clips` is the reader of this folder: there is sound in it, or in a folder below it."""
    try:
        return path.is_dir() and any(_sounds(folder) for folder in (path, *filter(Path.is_dir, path.iterdir())))
    except OSError:
        return False


def _sounds(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")


def _digits(folder: Path, split: str) -> ClipSet:
    whole = folder.resolve()
    name = whole.parent.name if whole.name == "recordings" else whole.name
    if split == "val":
        raise UsageError(f"{name} has takes for the test and to train on, and no split 'val': hold out speakers.")
    clips, strange, empty = [], [], []
    for file in _sounds(folder):
        found = _DIGIT.match(file.stem)
        if found is None:
            strange.append(file.name)
        elif not file.stat().st_size:
            empty.append(file.name)
        elif split == "all" or (int(found[3]) < _TEST_TAKES) is (split == "test"):
            clips.append(Clip(file, int(found[1]), found[2]))
    faults = {
        "recordings are not called <digit>_<speaker>_<take> and were left out": strange,
        "recordings are empty and were left out": empty,
    }
    return _finished(ClipSet(name, DIGITS, tuple(clips), split, _sentences(faults)))


def _words(root: Path, split: str) -> ClipSet:
    name = root.resolve().name
    folders = sorted(f for f in root.iterdir() if f.is_dir() and f.name[0] not in "_.")
    files = {f"{folder.name}/{file.name}": file for folder in folders for file in _sounds(folder)}
    found = {file.parent.name for file in files.values()}
    if not found:
        raise UsageError(f"{root} has no folder with recordings: expected one per word, with .wav files in it.")
    labels = WORDS if found == set(WORDS) else tuple(sorted(found))
    lists = {part: _listed(root / file) for part, file in LISTS.items()}
    _refuse_missing(name, split, lists)
    listed = {part: keys or set() for part, keys in lists.items()}
    clips, empty = [], []
    for key, file in files.items():
        part = next((part for part, keys in listed.items() if key in keys), "train")
        if not file.stat().st_size:
            empty.append(key)
        elif split in ("all", part):
            speaker = _SPEAKER.match(file.stem)
            clips.append(Clip(file, labels.index(file.parent.name), speaker[1] if speaker else ""))
    faults = {
        "folders have no recording in them and are no label": [f.name for f in folders if f.name not in found],
        "recordings are empty and were left out": empty,
        "recordings are in both lists and were taken for the test": sorted(listed["test"] & listed["val"]),
        "recordings that a list names are not there": sorted((listed["test"] | listed["val"]) - files.keys()),
    }
    return _finished(ClipSet(name, labels, tuple(clips), split, _sentences(faults)))


def _listed(path: Path) -> set[str] | None:
    """The files that a list names, as word/file; ``None`` where there is no list."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a list of files ({error}).") from error
    return {line.strip() for line in lines if line.strip()}


def _refuse_missing(name: str, split: str, lists: dict[str, set[str] | None]) -> None:
    for part in {"all": (), "train": ("test",), "val": ("val",), "test": ("test",)}[split]:
        if lists[part] is None:
            raise Unlisted(
                f"{name} has no {LISTS[part]}, so that nothing says what is in its split '{split}': take 'all', and "
                "hold out speakers."
            )


def _sentences(faults: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{len(names)} {what}, the first is '{names[0]}'." for what, names in faults.items() if names)


def _finished(data: ClipSet) -> ClipSet:
    if not data.clips:
        hint = f" The first fault: {data.faults[0]}" if data.faults else ""
        raise UsageError(f"{data.name} has no recording in its split '{data.split}'.{hint}")
    return data
