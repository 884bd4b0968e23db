"""What a search of prune ratios is asked for, and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgedeploy.compress.recipe import Pruning, Training
from edgedeploy.errors import UsageError
from edgedeploy.report.search import SearchTable, Tried
from edgedeploy.tasks.protocol import ULTRALYTICS, Protocol


@dataclass(frozen=True)
class Recovery:
    """What a pruned network gets before it is judged.

    Args:
        images: training images that the statistics of its batch normalisation are taken on again; 0 leaves them.
        training: a short training, in place of that; slow, and nearer to the truth.
    """

    images: int = 64
    training: Training | None = None

    def __post_init__(self) -> None:
        """Refuse less than nothing.

        Raises:
            UsageError: the number is negative.
        """
        if self.images < 0:
            raise UsageError(f"Batch normalisation cannot be recalibrated on {self.images} images; give 0 or more.")

    def __str__(self) -> str:
        if self.training is not None:
            return f"after a training of {self.training.epochs} epochs"
        if self.images:
            return f"with batch normalisation recalibrated on {self.images} training images"
        return "just as pruned"


@dataclass(frozen=True)
class Goal:
    """What is wanted; exactly one of the two.

    Args:
        target_fps: the most accurate network that makes at least so many passes per second.
        max_drop: the fastest network that loses at most so much AP50 (0.027 is 2.7 points).
    """

    target_fps: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no goal.

        Raises:
            UsageError: none or both are given, or one is out of range.
        """
        if (self.target_fps is None) == (self.max_drop is None):
            raise UsageError("A search has one goal: give a number of frames per second, or a loss of AP50, not both.")
        if self.target_fps is not None and not (math.isfinite(self.target_fps) and self.target_fps > 0):
            raise UsageError(f"{self.target_fps:g} frames per second are no goal; give more than 0.")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UsageError(f"A loss of AP50 of {self.max_drop:g} is no goal; give at least 0 and less than 1.")

    @property
    def limit(self) -> float | None:
        """Seconds that a pass may take."""
        return None if self.target_fps is None else 1 / self.target_fps

    def __str__(self) -> str:
        if self.target_fps is not None:
            return f"at least {self.target_fps:g} FPS"
        return f"at most {self.max_drop:g} less AP50"


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Args:
        folder: for the trials and what is made of them; a search that is in it already goes on.
        trials: in all.
        images: that accuracy is measured on.
        recovery: what a pruned network gets before it is judged.
        size: (height, width) of the input; the detector's own where ``None``.
        precision: that latencies are predicted in; only fp32 is measured.
        threads: of the CPU, for latencies; all where ``None``.
        most: largest share that is removed from a block; ``step`` between two shares.
        sure: judge a loss by the upper end of its paired interval, instead of the estimate.
        protocol: of the evaluation.
        seconds: that timing takes, per network.
        seed: of what is tried.
        follow: told what is going on, and the share that is done.
    """

    folder: Path
    trials: int = 60
    images: int = 64
    recovery: Recovery = field(default_factory=Recovery)
    size: tuple[int, int] | None = None
    precision: str = "fp32"
    threads: int | None = 1
    most: float = 0.9
    step: float = 0.05
    sure: bool = False
    protocol: Protocol = ULTRALYTICS
    seconds: float = 3.0
    seed: int = 0
    follow: Callable[[str, float], None] = lambda _, __: None

    def __post_init__(self) -> None:
        """Refuse what finds nothing.

        Raises:
            UsageError: names the number.
        """
        for name in ("trials", "images"):
            if getattr(self, name) < 1:
                raise UsageError(f"A search with {name} {getattr(self, name)} finds nothing; give 1 or more.")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"Timing for {self.seconds} s measures nothing; give more than zero.")


@dataclass(frozen=True)
class Found:
    """What came out.

    Args:
        pruning: with the ratio of every group, for a recipe.
        trials: all of them.
        front: numbers of those that no other one beats in both, from the fastest to the most accurate.
        chosen: number of the trial that ``pruning`` is of.
        sentence: what was chosen, how it does, and how that is known.
        table: everything that was written into the folder.
    """

    pruning: Pruning
    trials: tuple[Tried, ...]
    front: tuple[int, ...]
    chosen: int
    sentence: str
    table: SearchTable
