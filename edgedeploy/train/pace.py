"""How a training comes along: a line per epoch, and about how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgedeploy.train.log import Epoch
from edgedeploy.train.loop import Follower

#: Seconds without a word inside an epoch.
_QUIET = 20.0


class Pace(Follower):
    """Says how a training of ``epochs`` comes along."""

    def __init__(self, epochs: int, say: Callable[[str], None]) -> None:
        self._epochs, self._say = epochs, say
        self._seconds = 0.0
        self._said = time.monotonic()

    def step(self, epoch: int, share: float) -> None:
        """So much of an epoch is done: worth a word where epochs are long."""
        if share < 1 and time.monotonic() - self._said > _QUIET:
            self._say(f"epoch {epoch} of {self._epochs}: {share:.0%} of it")
            self._said = time.monotonic()

    def epoch(self, epoch: Epoch) -> None:
        """Take note of an epoch that has ended."""
        self._said = time.monotonic()
        self._seconds = 0.7 * self._seconds + 0.3 * epoch.seconds if self._seconds else epoch.seconds
        parts = [f"loss {epoch.loss:.4f}", f"validation accuracy {epoch.val_accuracy:.1%}"]
        if epoch.firing:
            parts.append(f"{sum(epoch.firing.values()) / len(epoch.firing):.1%} of neurons fire")
        parts.append(f"about {duration((self._epochs - epoch.number) * self._seconds)} left")
        self._say(f"epoch {epoch.number} of {self._epochs}: {', '.join(parts)}")


def duration(seconds: float) -> str:
    """``2 h 10 min``: as a person says how long something takes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
