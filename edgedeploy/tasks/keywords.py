"""Spotting keywords in a stream of sound: the contract of a model that hears one word per clip, or as it is spoken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.fbank import Fbank, Features, Sound
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array

#: Louder than this is no sound in -1 to 1, not even one that resampling has overdriven.
LOUDEST = 16.0
#: A word that leads by less than this in its score does not lead: rounding decides between two that are as likely.
TIE = 1e-3


@dataclass(frozen=True, eq=False)
class Heard:
    """How likely each word is: ``scores`` float32 (classes,), in 0 to 1, resting on ``frames`` frames."""

    scores: npt.NDArray[np.float32]
    frames: int


@dataclass(frozen=True)
class Keywords(Task[Heard]):
    """Which of ``labels`` a clip is.

    The graph ``main`` takes ``features`` float32 (1, ``frames``, bins) and gives ``logits`` float32 (1, classes). The
    graph ``stream`` takes ``frame`` float32 (1, bins) and ``end`` float32 (1, 1), which is 0, or 1 for the
    ``lookahead`` steps after the last frame (whose ``frame`` does not count), and gives ``logits`` (1, classes) of all
    that it has heard, and ``heard`` float32 (1, 1), the number of frames that these rest on: 0 before the first answer.

    Args:
        labels: class names.
        features: how sound becomes frames.
        frames: that ``main`` takes; shorter clips are filled up with zeros before normalisation, longer ones cut.
        lookahead: frames that an answer waits for beyond the one that it is about.
    """

    kind: ClassVar[str] = "keywords"
    labels: tuple[str, ...]
    features: Fbank = field(default_factory=Fbank)
    frames: int = 128
    lookahead: int = 5

    def __post_init__(self) -> None:
        """Refuse values that no keyword model can have.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        rules = {
            "labels": (0 < len(self.labels) == len(set(self.labels)), "at least one name, and none twice"),
            "frames": (1 <= self.frames <= 1_000_000, "a number of frames, from 1 to 1000000"),
            "lookahead": (0 <= self.lookahead <= 1000, "a number of frames, from 0 to 1000"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise UsageError(f"Task 'keywords': {name} is {getattr(self, name)!r}; it has to be {expected}.")

    def prepare(self, sample: Array) -> Prepared:
        """Features float32 (1, frames, bins) of a clip: float32 (n,) mono at the features' rate, in -1 to 1.

        The context is the number of frames that are of the clip; the others are filled up.

        Raises:
            UsageError: another dtype or shape, samples that are no sound, or less than a frame of it.
        """
        fbank = self.features
        sound = mono(sample, fbank.sample_rate)
        if len(sound) < fbank.window:
            raise UsageError(
                f"A clip of {len(sound)} samples has no frame of sound in it: at least {fbank.window} samples are "
                f"needed ({fbank.window / fbank.sample_rate * 1000:g} ms at {fbank.sample_rate} Hz)."
            )
        features = fbank.normalise(fbank.filled(sound, self.frames))
        return Prepared((features[None],), min(fbank.count(len(sound)), self.frames))

    def finish(self, outputs: Sequence[Array], context: Any) -> Heard:
        """Sigmoid scores of the logits (1, classes), the first output.

        Raises:
            UsageError: the output's shape does not fit the labels.
        """
        return Heard(self._scores(outputs), self.frames)

    def distance(self, reference: Heard, result: Heard) -> float:
        """How far two results for the same sound are apart: 0 for the same, 1 for nothing in common.

        It is 1 where another word is the likeliest (by at least `TIE`) or a score is no number, else half the sum of
        the absolute differences of the scores as shares: their total variation.
        """
        one, other = (np.asarray(heard.scores, np.float64) for heard in (reference, result))
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return 1.0
        best, chosen = int(one.argmax()), int(other.argmax())
        if best != chosen and max(other[chosen] - other[best], one[best] - one[chosen]) >= TIE:
            return 1.0
        return float(min(np.abs(_shares(one) - _shares(other)).sum() / 2, 1.0))

    def feed(self) -> KeywordFeed:
        """Pieces of sound, float32 (n,), n as it comes; see `Task.feed`."""
        return KeywordFeed(self)

    def heard(self, outputs: Sequence[Array]) -> Heard | None:
        """Scores after a step; ``None`` while nothing has been heard.

        Raises:
            UsageError: the outputs are not those of the graph ``stream``.
        """
        if len(outputs) < 2 or outputs[1].size != 1:
            raise UsageError("A step of a keyword model gives two tensors: logits (1, classes) and heard (1, 1).")
        frames = float(outputs[1].reshape(()))
        return Heard(self._scores(outputs), round(frames)) if frames > 0 else None

    def _scores(self, outputs: Sequence[Array]) -> npt.NDArray[np.float32]:
        logits = np.asarray(outputs[0])
        if logits.shape != (1, len(self.labels)):
            raise UsageError(
                f"The model gives {logits.shape}, and a keyword model with {len(self.labels)} labels gives "
                f"(1, {len(self.labels)})."
            )
        sure = np.minimum(-logits[0].astype(np.float64), 700)  # exp() has nothing to say beyond it
        scores: npt.NDArray[np.float32] = (1 / (1 + np.exp(sure))).astype(np.float32)
        return scores


class KeywordFeed:
    """Frames of one stream of sound, as the graph ``stream`` takes them; keeps less than a frame of sound."""

    def __init__(self, task: Keywords) -> None:
        self._task = task
        self.reset()

    def reset(self) -> None:
        """The next piece is the first of another stream."""
        self._online = self._task.features.online()
        self._samples = 0
        self._frames = 0
        self._ended = False

    def push(self, piece: Array) -> list[tuple[Array, ...]]:
        """A step for each frame that is complete with ``piece``: float32 (n,) mono in -1 to 1, any n.

        Raises:
            UsageError: another dtype or shape, samples that are no sound, or the stream has ended.
        """
        if self._ended:
            raise UsageError("This stream has ended; reset() begins another.")
        fbank = self._task.features
        sound = mono(piece, fbank.sample_rate, self._samples)
        self._samples += len(sound)
        frames = fbank.normalise(self._online.push(sound))
        self._frames += len(frames)
        return _steps(frames, 0.0)

    def finish(self) -> list[tuple[Array, ...]]:
        """The steps that are left: up to the task's ``frames``, those that ``main`` fills up with, then the flush.

        So the last answer to a short stream is that of ``main`` to the same clip; a longer one is only flushed. Where
        there was less than a frame of sound there is nothing to answer: no steps.
        """
        if self._ended or self._frames == 0:
            self._ended = True
            return []
        self._ended = True
        task = self._task
        missing = max(0, task.frames - self._frames)
        fill = task.features.normalise(np.zeros((missing, task.features.bins), np.float32))
        self._frames += missing
        return _steps(fill, 0.0) + _steps(np.zeros((task.lookahead, task.features.bins), np.float32), 1.0)

    def state(self) -> dict[str, Array]:
        """What it takes to go on with this stream elsewhere: the sound not yet used, and how much there was."""
        counts = np.array([self._samples, self._frames, self._ended], np.int64)
        return {"sound": self._online.rest.copy(), "counts": counts}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from a `state`.

        Raises:
            UsageError: it is not one of a feed like this; nothing is changed then.
        """
        window = self._task.features.window
        sound, counts = state.get("sound", np.zeros(0)), state.get("counts", np.zeros(0))
        kinds = [(array.dtype.name, array.ndim) for array in (sound, counts)]
        if kinds != [("float32", 1), ("int64", 1)] or len(sound) >= window or len(counts) != 3 or min(counts) < 0:
            raise UsageError(f"This is no state of a stream with frames of {window} samples.")
        samples, frames, ended = (int(count) for count in counts)
        self._online.rest = mono(sound, self._task.features.sample_rate).copy()
        self._samples, self._frames, self._ended = samples, frames, bool(ended)


def mono(sound: Array, rate: int, before: int = 0) -> Sound:
    """The same, which is mono sound in -1 to 1, float32 (n,); ``before`` samples of the stream came before it.

    Raises:
        UsageError: says what it is instead, and for a bad sample at which second of the stream.
    """
    if not isinstance(sound, np.ndarray) or sound.dtype != np.float32 or sound.ndim != 1:
        found = f"{sound.dtype} {sound.shape}" if isinstance(sound, np.ndarray) else type(sound).__name__
        hint = ""
        if isinstance(sound, np.ndarray) and sound.ndim == 2:
            hint = " Mix the channels down to one, or pick one."
        elif isinstance(sound, np.ndarray) and sound.dtype == np.int16:
            hint = " Divide 16 bit samples by 32768."
        raise UsageError(f"A keyword model takes mono sound, float32 (samples,), but was given {found}.{hint}")
    if not (sound.max(initial=0.0) <= LOUDEST and sound.min(initial=0.0) >= -LOUDEST):  # nor where one is no number
        at = int(np.flatnonzero(~(np.abs(sound) <= LOUDEST))[0])
        raise UsageError(
            f"The sound is {sound[at]} at {(before + at) / rate:.3f} s; samples have to be numbers in -1 to 1."
        )
    checked: Sound = sound.astype(np.float32, copy=False)
    return checked


def stand_ins(task: Keywords, count: int = 2) -> list[Array]:
    """Synthetic sounds, each as long as what ``main`` takes, for want of recordings; the same for the same task."""
    fbank = task.features
    seconds = fbank.samples(task.frames) / fbank.sample_rate
    return [babble(seed, seconds, fbank.sample_rate) for seed in range(count)]


def _shares(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = scores.sum()
    return scores / total if total > 0 else np.full_like(scores, 1 / len(scores))


def _steps(frames: Features, end: float) -> list[tuple[Array, ...]]:
    """A step per row of ``frames`` (n, bins), normalised."""
    ends = np.full((1, 1), end, np.float32)
    return [(frames[i : i + 1], ends) for i in range(len(frames))]
