"""Labelled recordings of words: what a keyword model is trained and measured on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import canonical
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tensors import Array


@dataclass(frozen=True)
class Clip:
    """One recording: ``word`` is an index into the labels of its set, ``speaker`` a name, empty where not known."""

    path: Path
    word: int
    speaker: str


@dataclass(frozen=True)
class ClipSet:
    """A labelled set of recordings, or one split of it.

    ``faults`` are sentences about what was left out while reading: an empty tuple for a clean set.
    """

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    split: str
    faults: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who speaks, each once, sorted; those who are not known are not among them."""
        return tuple(sorted({clip.speaker for clip in self.clips} - {""}))

    def subset(self, indices: Iterable[int]) -> ClipSet:
        """The set with these clips, in this order; an index may come twice."""
        return dataclasses.replace(self, clips=tuple(self.clips[i] for i in indices))

    def digest(self) -> str:
        """sha256 over labels, words, speakers and the bytes of every file, in order; file names do not count.

        Computed at the first call, which reads every file.

        Raises:
            UsageError: a file has gone.
        """
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        total = hashlib.sha256(canonical([list(self.labels), [[clip.word, clip.speaker] for clip in self.clips]]))
        for clip in self.clips:
            try:
                total.update(hashlib.sha256(clip.path.read_bytes()).digest())
            except OSError as error:
                raise UsageError(f"{clip.path} cannot be read: {error.strerror}.") from error
        return total.hexdigest()


class Sounds(Sequence[Array]):
    """The samples of clips, float32 (n,) at ``rate`` Hz, read when asked for; see `read_audio`."""

    def __init__(self, paths: Sequence[Path], rate: int, resample: bool = False) -> None:
        self.paths, self.rate, self.resample = tuple(paths), rate, resample

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Sounds(self.paths[index], self.rate, self.resample)
        return read_audio(self.paths[index], self.rate, self.resample)

    def at(self, rate: int) -> Sounds:
        """The same at another rate."""
        return Sounds(self.paths, rate, self.resample)


def load_clips(data: ClipSet, rate: int, resample: bool = False) -> Sounds:
    """The sound of every clip of a set, in order, at ``rate`` Hz; a clip is read each time that it is asked for."""
    return Sounds([clip.path for clip in data.clips], rate, resample)


def hold_out(data: ClipSet, speakers: Iterable[str]) -> tuple[ClipSet, ClipSet]:
    """The set without ``speakers``, and the clips of these.

    Raises:
        UsageError: the set does not know who speaks, a speaker is not in it, or one of the two parts would be empty.
    """
    known, held = _known(data), set(speakers)
    for name in sorted(held):
        if name not in known:
            raise UsageError(f"{data.name} has no speaker '{name}'.{did_you_mean(name, known)}")
    if not held or held == set(known):
        raise UsageError(f"{data.name}: {len(held)} of {len(known)} speakers held out leaves nothing to compare.")
    parts = [[i for i, clip in enumerate(data.clips) if (clip.speaker in held) is side] for side in (False, True)]
    return data.subset(parts[0]), data.subset(parts[1])


def speaker_folds(data: ClipSet, count: int | None = None) -> tuple[tuple[ClipSet, ClipSet], ...]:
    """Pairs of the rest and the clips held out, such that every speaker is held out once, with all that they said.

    ``count`` folds of about as many clips each; as many as there are speakers where ``None``, one speaker in each.

    Raises:
        UsageError: the set does not know who speaks, or has fewer speakers than folds, or there are less than two.
    """
    known = _known(data)
    count = len(known) if count is None else count
    if not 2 <= count <= len(known):
        raise UsageError(f"{data.name} has {len(known)} speakers: give from 2 to {len(known)} folds, not {count}.")
    said = Counter(clip.speaker for clip in data.clips)
    folds: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(known, key=lambda name: (-said[name], name)):
        min(folds, key=lambda fold: sum(said[other] for other in fold)).append(name)
    return tuple(hold_out(data, fold) for fold in folds)


def _known(data: ClipSet) -> tuple[str, ...]:
    """The speakers of a set of which all are known, and which has two at least."""
    unknown = sum(not clip.speaker for clip in data.clips)
    if unknown:
        raise UsageError(
            f"{data.name} does not say who speaks in {unknown} of its {len(data)} clips, so that no speaker can be "
            "held out. Name the files <speaker>_nohash_<number>.wav."
        )
    if len(data.speakers) < 2:
        raise UsageError(f"{data.name}: speakers known: {len(data.speakers)}; to hold one out takes two at least.")
    return data.speakers
