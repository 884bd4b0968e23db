"""How sure one can be of a share of clips, where clips of one speaker are alike.

A speaker who is hard to understand is so in all of his clips. What is drawn again in the bootstrap are therefore
speakers, each with all of his clips (cluster bootstrap; Davison and Hinkley 1997, section 3.8): intervals over clips as
if they were independent would be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.schedule import share_interval
from edgedeploy.errors import UsageError

Floats = npt.NDArray[np.float64]
#: With fewer speakers than this, a bootstrap over speakers says little about new ones.
ENOUGH_SPEAKERS = 10


@dataclass(frozen=True)
class Interval:
    """A number between ``low`` and ``high`` with ``confidence``; ``method`` says how the bounds were found."""

    value: float
    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True)
class Draw:
    """How a bootstrap draws: how often, and from which seed."""

    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a number of draws whose quantiles would say nothing."""
        if self.replicates < 100:
            raise UsageError(f"A bootstrap takes at least 100 replicates, not {self.replicates}.")


def voices(speakers: Sequence[str]) -> int:
    """How many speakers there are; each clip of which nobody knows the speaker counts as one."""
    return len(set(speakers) - {""}) + sum(not speaker for speaker in speakers)


def clusters(speakers: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of what each clip is drawn together with, (clips,): its speaker.

    A clip of which nobody knows the speaker stands for itself, and so does each where there is but one speaker, of whom
    other clips might have been recorded.
    """
    alone = voices(speakers) == 1
    numbers: dict[str, int] = {}
    return np.array(
        [
            numbers.setdefault(f"\0{i}" if alone else speaker or f"\0{i}", len(numbers))
            for i, speaker in enumerate(speakers)
        ],
        np.int64,
    )


def weights(speakers: Sequence[str], draw: Draw) -> npt.NDArray[np.float64]:
    """How often each clip comes in each replicate, (replicates, clips): as often as its speaker was drawn."""
    members = clusters(speakers)
    count = int(members.max()) + 1
    drawn = np.random.default_rng(draw.seed).multinomial(count, np.full(count, 1 / count), size=draw.replicates)
    return drawn[:, members].astype(np.float64)


def resampled(values: npt.NDArray[np.generic], speakers: Sequence[str], draw: Draw) -> Floats:
    """The mean of ``values`` (clips, ...) over clips in each replicate, (replicates, ...)."""
    drawn = weights(speakers, draw)
    table = values.astype(np.float64).reshape(len(values), -1)
    means: Floats = (drawn @ table) / drawn.sum(axis=1, keepdims=True)
    return means.reshape(draw.replicates, *values.shape[1:])


def share(right: npt.NDArray[np.bool_], speakers: Sequence[str], draw: Draw) -> Interval:
    """The share of clips that are ``right`` (clips,), with a 95 % interval for clips of speakers like these.

    Wilson's over clips where each has a speaker of its own, or there is but one speaker (whom it then is about);
    else a bootstrap over speakers. Where that has no spread, because nothing was wrong or nothing right, Wilson's over
    as many clips as there are speakers: the bootstrap would claim certainty.

    Raises:
        UsageError: there is no clip.
    """
    return shares(right[:, None], speakers, draw)[0]


def shares(right: npt.NDArray[np.bool_], speakers: Sequence[str], draw: Draw) -> tuple[Interval, ...]:
    """`share` of each of several answers to the same clips, ``right`` (clips, answers), from the same draws.

    Raises:
        UsageError: there is no clip.
    """
    if not len(right):
        raise UsageError("There is no clip, so that there is no accuracy.")
    hits, count, known = [int(n) for n in right.sum(axis=0)], len(right), voices(speakers)
    if known in (1, count):
        return tuple(Interval(n / count, *share_interval(n, count), 0.95, "Wilson over clips") for n in hits)
    lows, highs = np.quantile(resampled(right, speakers, draw), [0.025, 0.975], axis=0)
    return tuple(
        Interval(n / count, *share_interval(known if n else 0, known), 0.95, "Wilson over speakers")
        if n in (0, count)
        else Interval(n / count, float(low), float(high), 0.95, "bootstrap over speakers")
        for n, low, high in zip(hits, lows, highs, strict=True)
    )


def exact_share(part: int, whole: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share of independent clips, half of what is missing on either side.

    Clopper and Pearson, "The use of confidence or fiducial limits", 1934: with 90 %, 0 of 30 is 0 to 9.5 %.
    """
    tail = (1 - confidence) / 2
    return 1 - _highest(whole - part, whole, tail), _highest(part, whole, tail)


def _highest(part: int, whole: int, tail: float) -> float:
    """The largest p with P(binomial(whole, p) <= part) >= tail, by bisection; sums of logarithms, as n is large."""
    if part == whole:
        return 1.0
    k = np.arange(part)
    ways = np.concatenate(([0.0], np.cumsum(np.log((whole - k) / (k + 1)))))
    hits = np.arange(part + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        logs = ways + hits * math.log(middle) + (whole - hits) * math.log1p(-middle)
        low, high = (middle, high) if float(np.exp(logs).sum()) >= tail else (low, middle)
    return low


def spread(drawn: Floats, confidence: float) -> tuple[float, float]:
    """The percentile interval of replicates, (replicates,)."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def doubts(speakers: Sequence[str]) -> tuple[str, ...]:
    """What stands against trusting an interval over these speakers."""
    if not all(speakers):
        unknown = sum(not speaker for speaker in speakers)
        said = f"Of {unknown} of {len(speakers)} clips the speaker is not known: they are taken for independent."
        return (said,)
    return few(voices(speakers))


def few(known: int) -> tuple[str, ...]:
    """What stands against an interval over so many speakers: there are fewer than `ENOUGH_SPEAKERS`."""
    if known == 1:
        return ("All clips are of one speaker: the interval is about that speaker, and says nothing about others.",)
    if known < ENOUGH_SPEAKERS:
        return (
            f"Only {known} speakers: with fewer than {ENOUGH_SPEAKERS} a bootstrap over speakers is not to be trusted "
            "(it tends to be too narrow). Look at the speakers one by one.",
        )
    return ()
