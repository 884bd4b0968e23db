"""What a pass of a streaming graph is: one frame of a stream, which comes by the stream's own clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgedeploy.errors import UsageError
from edgedeploy.tasks import STREAM, Keywords, Task


@dataclass(frozen=True)
class Frames:
    """Passes are the frames of one endless stream: its samples strung together again and again, its state never reset.

    Args:
        sample_rate: values of the stream per second.
        period: seconds from one frame to the next, the hop of the features.
        length: seconds of the stream that one frame is made of.
        lookahead: frames that an answer waits for beyond the one that it is about.
    """

    sample_rate: int
    period: float
    length: float
    lookahead: int

    def __post_init__(self) -> None:
        times = (self.period, self.length)
        if self.hop < 1 or self.lookahead < 0 or not all(math.isfinite(t) and t > 0 for t in times):
            raise UsageError(
                f"Frames of {self.length:g} s each {self.period:g} s of {self.sample_rate} Hz, with a look-ahead of "
                f"{self.lookahead}, are none; the record is damaged."
            )

    @property
    def hop(self) -> int:
        """Values of the stream from one frame to the next."""
        return round(self.period * self.sample_rate) if math.isfinite(self.period) else 0

    @property
    def before(self) -> int:
        """Values that have to be there before each further hop completes a frame."""
        return max(0, round((self.length - self.period) * self.sample_rate))

    @property
    def wait(self) -> float:
        """Seconds of the stream from the begin of a frame to the last value that the answer about it needs.

        The algorithmic latency: it is there on a device of any speed, and the time of a pass comes on top.
        """
        return self.length + self.lookahead * self.period


def frames_of(task: Task[Any], graph: str) -> Frames | None:
    """The frames that ``graph`` takes by the contract of ``task``; ``None`` where it takes samples one by one."""
    if graph != STREAM or not isinstance(task, Keywords):
        return None
    features = task.features
    return Frames(features.sample_rate, features.hop, features.frame, task.lookahead)
