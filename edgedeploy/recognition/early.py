"""Deciding early: how accurate the answer is after so much was heard, and how much need not be heard.

Two bases are kept apart. The paper that introduced the curve (Liu et al., "LMUFormer", ICLR 2024) counts the frames of
the window, of which the last ones are padding, and takes prefix t for t frames. But answer t rests on layers that look
ahead, so that it is not there before frame t + look-ahead has come, unless the clip is over; and what was saved is
sound, of which a clip has no more than its own frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.recognition.hearing import Hearing, seconds_of
from edgedeploy.recognition.resampling import Draw, Interval, resampled, share, shares, spread
from edgedeploy.tasks.keywords import Keywords

Floats = npt.NDArray[np.float64]
#: The share of the final accuracy at which the paper reads its saving.
ENOUGH = 0.99
#: Scores at which a stream may stop listening, for the operating curve.
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)


@dataclass(frozen=True)
class Moment:
    """The answers after ``heard`` frames.

    Args:
        heard: frames that the answers rest on.
        accuracy: of these answers over all clips.
        low, high: its 95 % interval, see `resampling.share`; before anything was heard it is 0 for certain.
        needed: frames of sound that have to be there for them, mean over clips.
        seconds: of sound that these are.
    """

    heard: int
    accuracy: float
    low: float
    high: float
    needed: float
    seconds: float


@dataclass(frozen=True)
class Saving:
    """What deciding at the first moment from which on the accuracy stays at ``enough`` of the final one saves.

    The moment is picked on the clips that it is then judged on, so that the saving leans upwards. The intervals are
    from a bootstrap over speakers, which picks anew in each replicate in which a final answer is right.

    Args:
        enough: share of the final accuracy.
        heard: frames that the answers then rest on.
        accuracy: then.
        final: accuracy of the final answers.
        window: share of the frames of the window that is saved: the paper's way of counting.
        sound: share of the clips' own sound, without look-ahead.
        waited: share of the clips' own sound, as the look-ahead has to be waited for: what a device saves.
    """

    enough: float
    heard: int
    accuracy: float
    final: float
    window: Interval
    sound: Interval
    waited: Interval


@dataclass(frozen=True)
class Stop:
    """Listening until a score reaches ``threshold``, or the clip is over.

    Args:
        threshold: of the highest sigmoid score.
        accuracy: of the answers at that moment.
        low, high: its 95 % interval, see `resampling.share`.
        seconds: of sound that were waited for, look-ahead included, mean over clips.
        early: share of the clips that were stopped before their end.
    """

    threshold: float
    accuracy: float
    low: float
    high: float
    seconds: float
    early: float


@dataclass(frozen=True)
class Early:
    """The early decision of one system.

    Args:
        window: frames of the window, padding included.
        sound: frames of the clips' own sound, mean.
        lookahead: frames that an answer waits for.
        seconds: of the clips' own sound, mean.
        curve: accuracy as a function of the frames heard.
        saving: at `ENOUGH` of the final accuracy; ``None`` where no final answer is right: there is nothing to save.
        stops: the operating curve.
    """

    window: int
    sound: float
    lookahead: int
    seconds: float
    curve: tuple[Moment, ...]
    saving: Saving | None
    stops: tuple[Stop, ...]


def early(hearing: Hearing, task: Keywords, draw: Draw | None = None) -> Early:
    """The early decision of a system that answers after every frame.

    Raises:
        UsageError: it gives final answers only.
    """
    if len(hearing.heard) < 3:
        raise UsageError("An early decision takes answers after every frame, and this system gives final ones only.")
    draw = draw or Draw()
    needed = _needed(hearing, task.lookahead)
    features = task.features
    accuracy = shares(hearing.right, hearing.speakers, draw)
    curve = tuple(
        Moment(int(t), a.value, a.low, a.high if t else 0.0, float(n), seconds_of(features, float(n)))
        for t, a, n in zip(hearing.heard, accuracy, needed.mean(axis=0), strict=True)
    )
    sound = float(hearing.frames.mean())
    return Early(
        window=int(hearing.heard[-1]),
        sound=sound,
        lookahead=task.lookahead,
        seconds=seconds_of(features, sound),
        curve=curve,
        saving=_saving(hearing, task.lookahead, draw),
        stops=tuple(_stop(hearing, task, draw, threshold) for threshold in THRESHOLDS),
    )


def first_enough(accuracy: Floats, enough: float = ENOUGH) -> npt.NDArray[np.int64]:
    """The first answer from which on ``accuracy`` (..., answers) stays at ``enough`` of the last one, (...)."""
    below = accuracy < enough * accuracy[..., -1:]
    behind = below[..., ::-1].argmax(axis=-1)
    found: npt.NDArray[np.int64] = np.where(below.any(axis=-1), below.shape[-1] - behind, 0)
    return found


def _needed(hearing: Hearing, lookahead: int) -> npt.NDArray[np.int64]:
    """Frames of a clip's own sound that have to be there for each answer, (clips, answers)."""
    waited = np.where(hearing.heard > 0, hearing.heard + lookahead, 0)
    return np.minimum(waited[None], hearing.frames[:, None])


def _saving(hearing: Hearing, lookahead: int, draw: Draw) -> Saving | None:
    """The replicates draw accuracies and frames together: which moment is enough is uncertain too."""
    accuracy, window = hearing.right.mean(axis=0), int(hearing.heard[-1])
    if not accuracy[-1]:
        return None
    at = int(first_enough(accuracy))
    again = resampled(hearing.right, hearing.speakers, draw)
    rows = np.flatnonzero(again[:, -1] > 0)
    moments = first_enough(again[rows])
    kept = []
    for wait in (0, lookahead):
        needed = _needed(hearing, wait)
        drawn = resampled(needed, hearing.speakers, draw)
        total = resampled(hearing.frames, hearing.speakers, draw)
        value = 1 - needed[:, at].sum() / max(1, hearing.frames.sum())
        kept.append(_interval(float(value), 1 - drawn[rows, moments] / np.maximum(total[rows], 1)))
    padded = _interval(1 - float(hearing.heard[at]) / window, 1 - hearing.heard[moments] / window)
    return Saving(ENOUGH, int(hearing.heard[at]), float(accuracy[at]), float(accuracy[-1]), padded, *kept)


def _interval(value: float, drawn: Floats) -> Interval:
    return Interval(value, *spread(drawn, 0.95), 0.95, "bootstrap over speakers")


def _stop(hearing: Hearing, task: Keywords, draw: Draw, threshold: float) -> Stop:
    """Sigmoid scores: s >= p is the same as logit >= log(p / (1 - p))."""
    sure = (hearing.logits.max(axis=2) >= np.log(threshold / (1 - threshold))) & (hearing.heard > 0)[None]
    sure[:, -1] = True
    at = sure.argmax(axis=1)
    rows = np.arange(len(hearing))
    right, needed = hearing.right[rows, at], _needed(hearing, task.lookahead)[rows, at]
    accuracy = share(right, hearing.speakers, draw)
    return Stop(
        threshold=threshold,
        accuracy=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        seconds=float(np.mean([seconds_of(task.features, float(n)) for n in needed])),
        early=float((needed < hearing.frames).mean()),
    )


def thinned(moments: Sequence[Moment], most: int = 12) -> tuple[Moment, ...]:
    """At most so many of ``moments``, evenly spread, the last one among them; for tables."""
    places = np.unique(np.linspace(1, len(moments) - 1, min(most, len(moments) - 1)).round().astype(int))
    return tuple(moments[i] for i in places)
