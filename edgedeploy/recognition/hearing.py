"""A set of clips through a keyword model, in any of its forms, with the answer after every number of frames heard.

An `Ear` is one way of listening to one clip: the whole of it at once (`Whole`), all prefixes of one parallel pass
(`Prefixes`), or step by step as a device does (`Steps`). What comes out has one form, so that one evaluator judges all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tasks.keywords import Keywords
from edgedeploy.tasks.task import STREAM
from edgedeploy.tensors import Array, Signature

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


class Ear(Protocol):
    """One way of listening to a clip."""

    @property
    def heard(self) -> tuple[int, ...]:
        """How many frames each answer rests on, rising; the last answer is the final one. 0 is no answer yet."""
        ...

    def __call__(self, audio: Floats) -> Floats:
        """Logits (answers, classes) for a clip, float32 (n,) at the task's rate; zeros where there is no answer."""
        ...


@dataclass(frozen=True)
class Whole:
    """The graph ``main``: one answer per clip, filled up or cut to the frames that the graph takes."""

    task: Keywords
    session: Session
    signature: Signature

    @property
    def heard(self) -> tuple[int, ...]:
        """All frames of the graph."""
        return (self.task.frames,)

    def __call__(self, audio: Floats) -> Floats:
        """See `Ear`."""
        self.session.reset()
        outputs = self.session.run(inputs_of(self.signature, self.task.prepare(audio).tensors))
        return outputs[self.signature.outputs[0].name][:1].astype(np.float32)


@dataclass(frozen=True)
class Prefixes:
    """All prefixes of one parallel pass.

    ``logits`` takes features float32 (1, frames, bins) and gives (frames, classes): those of the mean over the first
    1, 2, ... frames of the features behind the last layer.
    """

    task: Keywords
    logits: Callable[[Array], Array]

    @property
    def heard(self) -> tuple[int, ...]:
        """0 and every frame."""
        return tuple(range(self.task.frames + 1))

    def __call__(self, audio: Floats) -> Floats:
        """See `Ear`."""
        found = self.logits(self.task.prepare(audio).tensors[0])
        return np.concatenate([np.zeros_like(found[:1]), found]).astype(np.float32)


@dataclass(frozen=True)
class Steps:
    """The graph ``stream``, step by step, in a session that carries its state.

    A clip is cut where ``main`` cuts it; a shorter one is filled up by the task's feed, as for ``main``.
    """

    task: Keywords
    session: Session
    signature: Signature

    @property
    def heard(self) -> tuple[int, ...]:
        """0 and every frame."""
        return tuple(range(self.task.frames + 1))

    def __call__(self, audio: Floats) -> Floats:
        """See `Ear`.

        Raises:
            RunFailed: an answer says that it rests on more frames than were given.
        """
        self.session.reset()
        feed, frames = self.task.feed(), self.task.frames
        answers = np.zeros((frames + 1, len(self.task.labels)), np.float32)
        logits, heard = (spec.name for spec in self.signature.outputs)
        for tensors in [*feed.push(audio[: self.task.features.samples(frames)]), *feed.finish()]:
            outputs = self.session.run(inputs_of(self.signature, tensors), graph=STREAM)
            after = round(float(outputs[heard].reshape(-1)[0]))
            if not 0 <= after <= frames:
                raise RunFailed(f"A step says that {after} frames were heard, and {frames} were given.")
            if after:
                answers[after] = outputs[logits][0]
        return answers


@dataclass(frozen=True, eq=False)
class Hearing:
    """What one system answered over a set of clips.

    Args:
        labels: class names.
        logits: float32 (clips, answers, classes).
        heard: int64 (answers,), the frames that each answer rests on, rising; the last answer is the final one.
        frames: int64 (clips,), frames of a clip's own sound, no more than the model takes.
        words: int64 (clips,), the class of each clip.
        speakers: who speaks in each; empty where not known.
        clips: what to call each.
    """

    labels: tuple[str, ...]
    logits: Floats
    heard: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    speakers: tuple[str, ...]
    clips: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    @property
    def words_heard(self) -> npt.NDArray[np.int64]:
        """The likeliest class (clips, answers); -1 where there is no answer yet, or one that is not a number."""
        best = self.logits.argmax(axis=2).astype(np.int64)
        known = np.isfinite(self.logits).all(axis=2) & (self.heard > 0)[None]
        return np.where(known, best, -1)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is the word that was spoken, (clips, answers)."""
        found: npt.NDArray[np.bool_] = self.words_heard == self.words[:, None]
        return found

    def join(self, other: Hearing) -> Hearing:
        """Both as one: the folds of a cross-validation, each heard by a system trained without it.

        Raises:
            UsageError: classes or answers are not the same.
        """
        if self.labels != other.labels or not np.array_equal(self.heard, other.heard):
            raise UsageError("Only hearings with the same classes and answers can be put together.")
        return Hearing(
            self.labels,
            np.concatenate([self.logits, other.logits]),
            self.heard,
            np.concatenate([self.frames, other.frames]),
            np.concatenate([self.words, other.words]),
            self.speakers + other.speakers,
            self.clips + other.clips,
        )


def hear(ear: Ear, task: Keywords, data: ClipSet, progress: Progress | None = None) -> Hearing:
    """What ``ear`` hears in every clip of ``data``; clips at another rate are resampled.

    Args:
        ear: how to listen.
        task: the contract of the model; words are matched to its labels by name.
        data: the clips.
        progress: called with clips done and clips in all.

    Raises:
        UsageError: a word of ``data`` is none of the model's, there is no clip, or a clip cannot be read.
    """
    words = _matched(task, data)
    logits, frames = [], []
    for done, clip in enumerate(data.clips, start=1):
        audio = read_audio(clip.path, task.features.sample_rate, resample=True)
        try:
            logits.append(ear(audio))
        except UsageError as error:
            raise UsageError(f"{clip.path}: {error}") from error
        frames.append(min(task.features.count(len(audio)), task.frames))
        if progress is not None:
            progress(done, len(data))
    return Hearing(
        labels=task.labels,
        logits=np.stack(logits),
        heard=np.array(ear.heard, np.int64),
        frames=np.array(frames, np.int64),
        words=np.array([words[clip.word] for clip in data.clips], np.int64),
        speakers=tuple(clip.speaker for clip in data.clips),
        clips=tuple(f"{clip.path.parent.name}/{clip.path.name}" for clip in data.clips),
    )


def _matched(task: Keywords, data: ClipSet) -> list[int]:
    """The model's class for each word of the data; only words that occur have to be known."""
    if not len(data):
        raise UsageError(f"{data.name}: there is no clip in the split '{data.split}'.")
    missing = {data.labels[clip.word] for clip in data.clips} - set(task.labels)
    if missing:
        raise UsageError(
            f"The model does not know {len(missing)} of the words in {data.name}, such as '{min(missing)}': it was "
            f"trained on {len(task.labels)} words ({', '.join(task.labels[:6])}, ...)."
        )
    return [task.labels.index(label) if label in task.labels else -1 for label in data.labels]


def seconds_of(features: Fbank, frames: float) -> float:
    """The seconds of sound that so many frames take; a mean of frames need not be whole."""
    return features.frame + (frames - 1) * features.hop if frames > 0 else 0.0
