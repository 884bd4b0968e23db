"""Two systems over the same clips: is one better, or are they as good as each other?

A bootstrap cannot draw what did not occur: where no clip changed, or the same share of each speaker's, all replicates
are alike and it would claim certainty. No interval of a difference is therefore narrower than what the counts of
changed clips allow, if clips were independent (`counted`). With no change in n clips it reaches to the exact bound for
0 of n, which with 90 % is 9.5 % for 30 clips and 0.1 % for 3000. Clips of one speaker are less than independent, so
that this is a least width: where there are few speakers, `equivalent` doubts it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.accuracy import ENOUGH_IMAGES, Difference, Equivalence, equivalence
from edgedeploy.errors import UsageError
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.resampling import (
    Draw,
    clusters,
    exact_share,
    few,
    resampled,
    spread,
    voices,
)

#: With at most so many speakers all ways to turn their signs are tried.
_ALL_SIGNS = 12


@dataclass(frozen=True)
class Paired:
    """The accuracy of the candidate minus that of the reference, over the same clips.

    Args:
        speakers: the difference, with an interval from a bootstrap over speakers, no narrower than `counted`.
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
    ends = spread(drawn, confidence)
    least = counted(int((change > 0).sum()), int((change < 0).sum()), len(change), confidence)
    low, high = min(ends[0], least[0]), max(ends[1], least[1])
    sd = float(drawn.std(ddof=1))
    return Difference(float(change.mean()), low, high, sd, len(change), draw.replicates, confidence, draw.seed)


def counted(gained: int, lost: int, clips: int, confidence: float) -> tuple[float, float]:
    """The interval of a difference of which only the counts of changed clips are known, clips being independent.

    The shares g and l of clips gained and lost have exact intervals (`resampling.exact_share`); their ends are put
    together as variances are, with the correlation of two counts of one multinomial (Zou and Donner, "Construction of
    confidence limits about effect measures", 2008)::

        high = g - l + sqrt(a^2 + b^2 + 2 r a b),  a = high(g) - g,  b = l - low(l),  r = sqrt(g l / ((1 - g) (1 - l)))

    and likewise below; r is 1 where all clips changed one way, as g = 1 - l then. So without a change it is -u to u,
    with u the exact upper bound for 0 of ``clips``.
    """
    up, down = gained / clips, lost / clips
    (least_up, most_up), (least_down, most_down) = (exact_share(n, clips, confidence) for n in (gained, lost))
    together = math.sqrt(up * down / ((1 - up) * (1 - down))) if max(gained, lost) < clips else 1.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(a * a + b * b + 2 * together * a * b)

    low = up - down - reach(up - least_up, most_down - down)
    high = up - down + reach(most_up - up, down - least_down)
    return max(-1.0, low), min(1.0, high)


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

    With fewer than `resampling.ENOUGH_SPEAKERS` speakers the answer is doubted.

    Raises:
        UsageError: the margin is not a positive number.
    """
    judged = equivalence(found.speakers, margin, of="clips")
    clips = found.speakers.images
    doubts = judged.doubts if found.voices == clips else (*judged.doubts, *few(found.voices))
    needed, sentence = judged.images_needed, judged.sentence
    if not found.gained and not found.lost and found.speakers.high >= margin:
        needed = _unchanged(margin, found.speakers.confidence)
        sentence = (
            f"Not decided: none of {clips} clips changed, which leaves a difference of up to "
            f"{found.speakers.high:.4f} either way, margin {margin:g}; {needed} clips in all would decide if none of "
            "them changes."
        )
    if needed is not None and found.voices not in (1, clips):
        speakers = math.ceil(found.voices * needed / clips)
        sentence += (
            f" That is about {speakers} speakers in all, with as many clips of each as of the {found.voices} here."
        )
    return Equivalence(judged.outcome, margin, needed, sentence, doubts)


def _unchanged(margin: float, confidence: float) -> int:
    """Clips, none of them changed, whose exact bound lies below ``margin``: p = 1 - tail^(1 / n)."""
    return max(ENOUGH_IMAGES, math.floor(math.log((1 - confidence) / 2) / math.log1p(-margin)) + 1)
