"""How a compression comes along: a line per epoch, and about how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgedeploy.compress.recipe import Training
from edgedeploy.compress.training.epochs import Epoch


class Pace:
    """Follows the epochs of all trainings.

    What is left is estimated from the seconds per epoch and pixel so far: later stages may differ, as a pruned network
    is faster and a teacher takes time of its own.
    """

    def __init__(self, trainings: Mapping[str, Training], say: Callable[[str], None]) -> None:
        self._left = {name: training.epochs for name, training in trainings.items()}
        self._trainings, self._say = trainings, say
        self._stage = ""
        self._rate = 0.0  # seconds per epoch and pixel, of the stage at hand, else of the one before

    def begins(self, stage: str) -> None:
        """A training begins."""
        self._stage = stage
        epochs = self._trainings[stage].epochs
        self._say(f"{stage}: preparing to train {epochs} epoch{'s'[: epochs != 1]}")

    def ended(self, stage: str) -> None:
        """A stage is done, or was."""
        self._left.pop(stage, None)

    def __call__(self, epoch: Epoch) -> None:
        """Take note of an epoch that has ended."""
        training = self._trainings[self._stage]
        new = epoch.seconds / training.size**2
        self._rate = new if not self._rate else 0.7 * self._rate + 0.3 * new
        self._left[self._stage] = max(0, training.epochs - epoch.number)
        parts = [f"loss {sum(epoch.losses.values()):.3f}"]
        if epoch.ap50 is not None:
            parts.append(f"AP50 {epoch.ap50:.3f}")
        if epoch.small and self._stage == "sparse":
            parts.append(f"{sum(epoch.small.values()) / len(epoch.small):.0%} small factors")
        parts.append(f"about {duration(self.left)} left")
        self._say(f"{self._stage}: epoch {epoch.number} of {training.epochs}: {', '.join(parts)}")

    @property
    def left(self) -> float:
        """Seconds until the last training ends, about."""
        return sum(left * self._rate * self._trainings[name].size ** 2 for name, left in self._left.items())


def duration(seconds: float) -> str:
    """``2 h 10 min``: as a person says how long something takes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
