"""Clips in memory: their sound, and their features where these fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tasks.keywords import mono

Array = npt.NDArray[np.float32]

#: Bytes of features that are kept; those of larger sets are computed when they are asked for.
KEPT = 1 << 30
#: Clips from one word about reading to the next.
_TOLD = 500


@dataclass(frozen=True)
class Window:
    """What a network is shown of a clip: ``frames`` frames of ``fbank``, which it is filled up or cut to."""

    fbank: Fbank
    frames: int

    def raw(self, wave: Array) -> Array:
        """Features (frames, bins) of a clip (n,), any n, not normalised; 0 where it has ended, as in the task."""
        return self.fbank.filled(wave, self.frames)


@dataclass(frozen=True, eq=False)
class Bank:
    """A set of clips that has been read.

    Args:
        clips: which.
        window: what networks are shown of them.
        waves: sound, (n,) each, at the rate of the features.
        words: index of the label of each clip, (clips,).
        kept: raw features (frames, bins) of each clip, or nothing.
    """

    clips: ClipSet
    window: Window
    waves: tuple[Array, ...]
    words: npt.NDArray[np.int64]
    kept: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.waves)

    @property
    def cut(self) -> int:
        """Clips that are longer than the window."""
        return sum(self.window.fbank.count(len(wave)) > self.window.frames for wave in self.waves)

    def raw(self, index: int) -> Array:
        """Features (frames, bins) of a clip, not normalised; not to be changed."""
        return self.kept[index] if self.kept else self.window.raw(self.waves[index])

    def normalised(self, indices: Sequence[int]) -> Array:
        """What a network is shown of these clips: (clips, frames, bins)."""
        fbank = self.window.fbank
        return np.stack([fbank.normalise(self.raw(index)) for index in indices])

    def means(self) -> Array:
        """Mean over the frames of what a network is shown of every clip, (clips, bins)."""
        return np.stack([self.normalised([index])[0].mean(axis=0) for index in range(len(self))])


def read_bank(clips: ClipSet, window: Window, say: Callable[[str], None] | None = None) -> Bank:
    """Read all clips of a set; sound of another rate is converted, and clips without a frame of sound are left out.

    Raises:
        UsageError: a clip cannot be read, or holds what no keyword model takes, or there is none.
        Unavailable: what reads sound is not installed.
    """
    fbank = window.fbank
    waves, short = [], []
    for number, clip in enumerate(clips.clips):
        if say is not None and number % _TOLD == 0:
            say(f"reading clips: {number} of {len(clips)}")
        wave = _sound(clip.path, fbank.sample_rate)
        if len(wave) >= fbank.window:
            waves.append(wave)
        else:
            short.append(number)
    if short:
        fault = f"{len(short)} clips are shorter than a frame, the first '{clips.clips[short[0]].path.name}'."
        clips = clips.subset(sorted(set(range(len(clips))) - set(short)))
        clips = replace(clips, faults=(*clips.faults, fault))
    if not waves:
        raise UsageError(f"{clips.name} has no clips in its part '{clips.split}'.")
    words = np.array([clip.word for clip in clips.clips], np.int64)
    fits = 4 * len(waves) * window.frames * fbank.bins <= KEPT
    return Bank(clips, window, tuple(waves), words, tuple(map(window.raw, waves)) if fits else ())


def _sound(path: Path, rate: int) -> Array:
    wave = read_audio(path, rate, resample=True)
    try:
        return mono(wave, rate)
    except UsageError as error:
        raise UsageError(f"{path} is no clip to train on: {str(error)[0].lower()}{str(error)[1:]}") from error
