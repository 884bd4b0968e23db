"""What is heard in a stream of sound. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from edgedeploy.listening.policy import Scores


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known after a frame.

    Args:
        begin: of the utterance in the stream.
        frames: that the scores rest on.
        rested: sound of the utterance, from its beginning, in those frames.
        waited: sound of the utterance that had to be heard for it: the look-ahead too, as far as there was any.
        scores: float32 (classes,), 0 to 1.
    """

    begin: float
    frames: int
    rested: float
    waited: float
    scores: Scores


@dataclass(frozen=True)
class Decision:
    """A word was decided on, with this (smoothed) score; the rest is that of the `Answer` which settled it."""

    word: str
    score: float
    begin: float
    frames: int
    rested: float
    waited: float


@dataclass(frozen=True)
class Utterance:
    """What is known at the end of one.

    Args:
        begin: where it starts in the stream.
        seconds: of sound in it.
        frames: that the last answer rests on; those that a short clip is filled up with count.
        top: words and their scores in the last answer, likeliest first.
        decision: the early one; ``None`` where it never came.
        peak: the loudest sample, 0 to 1.
        doubts: sentences that qualify the answer.
    """

    begin: float
    seconds: float
    frames: int
    top: tuple[tuple[str, float], ...]
    decision: Decision | None
    peak: float
    doubts: tuple[str, ...] = ()


Event = Answer | Decision | Utterance
