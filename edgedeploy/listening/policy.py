"""When scores that come frame by frame become a decision."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Policy:
    """Posterior handling: a word is decided on when it stays the likeliest, and likely enough, for long enough.

    Smoothing over a window and a threshold are those of G. Chen, C. Parada and G. Heigold, "Small-footprint keyword
    spotting using deep neural networks", ICASSP 2014. There each frame has a posterior of its own, and 30 of them are
    averaged; here each answer rests on the mean of all frames so far, which is smooth already, and patience stands in
    for the window unless one is asked for. A network that was trained on whole clips is sure of itself, and wrong, in
    its first frames: nothing is decided on fewer than ``least``.

    Args:
        threshold: score, 0 to 1, that the word has to reach.
        patience: answers in a row in which it has to, and in which no other word is likelier.
        least: frames that a decision rests on at least; half of what the network takes at once if ``None``.
        smoothing: answers that a score is averaged over, the last one included; fewer at the beginning.
        refractory: seconds of sound after a decision that are not listened to; only in continuous listening.
        onset: the loudest sample of a hop, 0 to 1, with which an utterance begins; only in continuous listening, and 0
            lets one begin in silence.

    Raises:
        UsageError: a value that cannot be meant.
    """

    threshold: float = 0.5
    patience: int = 10
    least: int | None = None
    smoothing: int = 1
    refractory: float = 0.5
    onset: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("onset", self.onset)):
            if not 0 <= value <= 1:
                raise UsageError(f"A decision's {name} is between 0 and 1, not {value:g}.")
        for name, count, least in (
            ("patience", self.patience, 1),
            ("smoothing", self.smoothing, 1),
            ("least", self.least, 0),
        ):
            if count is not None and count < least:
                raise UsageError(f"A decision's {name} is a number of frames from {least} up, not {count}.")
        if not 0 <= self.refractory < float("inf"):
            raise UsageError(f"A refractory period cannot be {self.refractory:g} s: give 0 for none.")


class Decider:
    """The policy at work on one utterance, with a network that takes so many ``frames`` at once."""

    def __init__(self, policy: Policy, frames: int) -> None:
        self._policy = policy
        self._least = frames // 2 if policy.least is None else policy.least
        self._window: deque[Scores] = deque(maxlen=policy.smoothing)
        self._word, self._run = -1, 0

    def take(self, scores: Scores, frames: int) -> tuple[int, float] | None:
        """The word (index) and its score, smoothed, where the answer with these ``scores`` (classes,) settles it."""
        self._window.append(scores)
        smooth = np.mean(self._window, axis=0)
        word = int(np.argmax(smooth))
        score = float(smooth[word])
        if not score >= self._policy.threshold or frames < self._least:  # a score that is no number decides nothing
            self._word, self._run = -1, 0
            return None
        self._run = self._run + 1 if word == self._word else 1
        self._word = word
        return (word, score) if self._run >= self._policy.patience else None

    def save(self) -> dict[str, Any]:
        """JSON values from which `restore` goes on."""
        return {"word": self._word, "run": self._run, "window": [scores.tolist() for scores in self._window]}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where `save` was called."""
        self._word, self._run = int(saved["word"]), int(saved["run"])
        self._window = deque((np.asarray(s, np.float32) for s in saved["window"]), self._policy.smoothing)
