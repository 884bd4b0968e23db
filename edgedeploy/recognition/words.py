"""How often the right word is heard: over all clips, per word and per speaker, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.schedule import share_interval
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.resampling import Draw, Interval, doubts, share

#: Confusions that a record keeps, the most frequent first.
MOST_CONFUSED = 10


@dataclass(frozen=True)
class Part:
    """The clips of one word, or of one speaker: how many there are and how many were heard right.

    ``low`` and ``high`` are Wilson's 95 % interval over these clips.
    """

    name: str
    clips: int
    right: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of the clips that were heard right: of a word, its recall."""
        return self.right / self.clips


@dataclass(frozen=True)
class Confusion:
    """How many clips of the word ``spoken`` were heard as ``heard``; empty where nothing was."""

    spoken: str
    heard: str
    clips: int


@dataclass(frozen=True)
class WordAccuracy:
    """The final answers of one system over a set of clips."""

    clips: int
    right: int
    accuracy: Interval
    words: tuple[Part, ...]
    speakers: tuple[Part, ...]
    confused: tuple[Confusion, ...]
    doubts: tuple[str, ...] = ()


def word_accuracy(hearing: Hearing, draw: Draw | None = None) -> WordAccuracy:
    """The accuracy of the final answers; its 95 % interval is over speakers, see `resampling.share`."""
    right, heard = hearing.right[:, -1], hearing.words_heard[:, -1]
    spoken = [hearing.labels[word] for word in hearing.words]
    wrong = Counter(
        (spoken[i], hearing.labels[heard[i]] if heard[i] >= 0 else "") for i in np.flatnonzero(~right).tolist()
    )
    return WordAccuracy(
        clips=len(hearing),
        right=int(right.sum()),
        accuracy=share(right, hearing.speakers, draw or Draw()),
        words=_parts(spoken, right),
        speakers=_parts(hearing.speakers, right) if all(hearing.speakers) else (),
        confused=tuple(Confusion(*pair, count) for pair, count in wrong.most_common(MOST_CONFUSED)),
        doubts=(*doubts(hearing.speakers), *_broken(hearing)),
    )


def _parts(names: Sequence[str], right: npt.NDArray[np.bool_]) -> tuple[Part, ...]:
    counts = Counter(names)
    hits = Counter(name for name, hit in zip(names, right, strict=True) if hit)
    return tuple(
        Part(name, counts[name], hits[name], *share_interval(hits[name], counts[name])) for name in sorted(counts)
    )


def _broken(hearing: Hearing) -> tuple[str, ...]:
    broken = int((~np.isfinite(hearing.logits[:, -1]).all(axis=1)).sum())
    return (f"In {broken} of {len(hearing)} clips the answer is NaN or infinite.",) if broken else ()
