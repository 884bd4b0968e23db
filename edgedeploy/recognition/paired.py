"""Two systems over the same clips: is one better, or are they as good as each other?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.accuracy import Difference, Equivalence, equivalence
from edgedeploy.errors import UsageError
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.resampling import Draw, clusters, resampled, spread, voices

#: With at most so many speakers all ways to turn their signs are tried.
_ALL_SIGNS = 12


@dataclass(frozen=True)
class Paired:
    """The accuracy of the candidate minus that of the reference, over the same clips.

    Args:
        speakers: the difference, with an interval from a bootstrap over speakers.
        clips: the same, over clips as if each had a speaker of its own: narrower than it should be where not.
        gained, lost: clips that only the candidate heard right, and only the reference.
        mcnemar: probability of a split of these at least as uneven, if both were as good (exact, two-sided; McNemar
            1947); it too takes clips for independent.
        signs: probability of a difference at least as large, if in each speaker it might as well have been the other
            way round (two-sided permutation test of the mean over speakers); ``None`` where there are fewer than two.
        voices: speakers.
    """

    speakers: Difference
    clips: Difference
    gained: int
    lost: int
    mcnemar: float
    signs: float | None
    voices: int


def paired(reference: Hearing, candidate: Hearing, draw: Draw | None = None, confidence: float = 0.9) -> Paired:
    """Compare the final answers of two systems.

    Raises:
        UsageError: the two are not over the same clips.
    """
    same = reference.clips == candidate.clips and np.array_equal(_spoken(reference), _spoken(candidate))
    if not same:
        raise UsageError("Only systems that heard the same clips can be compared: clips or words differ.")
    draw = draw or Draw()
    one, other = reference.right[:, -1], candidate.right[:, -1]
    change = other.astype(np.int64) - one
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Paired(
        speakers=_difference(change, reference.speakers, draw, confidence),
        clips=_difference(change, [""] * len(change), draw, confidence),
        gained=gained,
        lost=lost,
        mcnemar=mcnemar(gained, lost),
        signs=_signs(change, reference.speakers, draw),
        voices=voices(reference.speakers),
    )


def _spoken(hearing: Hearing) -> list[str]:
    return [hearing.labels[word] for word in hearing.words]


def _difference(change: npt.NDArray[np.int64], speakers: Sequence[str], draw: Draw, confidence: float) -> Difference:
    drawn = resampled(change, speakers, draw)
    low, high = spread(drawn, confidence)
    sd = float(drawn.std(ddof=1))
    return Difference(float(change.mean()), low, high, sd, len(change), draw.replicates, confidence, draw.seed)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test: that of a fair coin which came down ``gained`` to ``lost``."""
    flips = gained + lost
    tail = sum(math.comb(flips, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << flips))


def _signs(change: npt.NDArray[np.int64], speakers: Sequence[str], draw: Draw) -> float | None:
    count = voices(speakers)
    if count < 2:
        return None
    members = clusters(speakers)
    sums = np.bincount(members, weights=change) / len(change)
    if count <= _ALL_SIGNS:
        turns = np.array(list(itertools.product((1, -1), repeat=count)), np.float64)
        return sum(_as_far(turns, sums)) / len(turns)
    turns = np.random.default_rng(draw.seed).choice((-1.0, 1.0), size=(draw.replicates, count))
    return float((1 + sum(_as_far(turns, sums))) / (1 + draw.replicates))


def _as_far(turns: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]) -> list[bool]:
    return [abs(float(turned)) >= abs(float(sums.sum())) - 1e-12 for turned in turns @ sums]


def equivalent(found: Paired, margin: float) -> Equivalence:
    """Whether the accuracies differ by less than ``margin`` either way, for speakers like these.

    Raises:
        UsageError: the margin is not a positive number.
    """
    judged = equivalence(found.speakers, margin, of="clips")
    if judged.images_needed is None or found.voices in (1, found.speakers.images):
        return judged
    voices = math.ceil(found.voices * judged.images_needed / found.speakers.images)
    more = f" That is about {voices} speakers in all, with as many clips of each as of the {found.voices} here."
    return Equivalence(judged.outcome, margin, judged.images_needed, judged.sentence + more, judged.doubts)
