"""What the stages of a compression consist of, without torch: who works them off needs no network to be tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgedeploy.accuracy import Assessment, Progress
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.recipe import Distillation, Part, Pruning, Slimming, StageName, Training
from edgedeploy.compress.searching.goal import Goal
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.tasks.samples import DetectionSet

#: Told of each epoch when it has ended.
Passed = Callable[[Epoch], None]


@dataclass(frozen=True)
class Order:
    """One training: everything that a process needs to take part in it, as files and settings.

    ``source`` is trained; with ``adapt`` its head is rebuilt for the data's classes first. ``folder`` is the trainer's.
    The penalty of ``slimming`` is on what pruning may take: all but ``keep``.
    """

    stage: StageName
    source: Path
    training: Training
    folder: Path
    adapt: bool = False
    slimming: Slimming | None = None
    keep: tuple[Part, ...] = ()
    distillation: Distillation | None = None
    teacher: Path | None = None


@dataclass(frozen=True)
class Made:
    """The detector after a stage; its lineage is that of before.

    ``epochs`` it was trained, in ``seconds`` with those before a kill; ``settings`` that were used where the recipe
    left them open, ``notes`` for the record.
    """

    detector: Detector
    epochs: int = 0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hunt:
    """A search: how many trials, where they are kept, the data and where they are staged, how trials are judged."""

    goal: Goal
    trials: int
    folder: Path
    sets: tuple[DetectionSet, DetectionSet]
    data: Path
    protocol: str
    size: tuple[int, int]


class Work(Protocol):
    """What the stages consist of; `edgedeploy.compress.torch_work.Torch` does it."""

    def data(self, path: Path, part: str) -> DetectionSet:
        """A part of a data set."""
        ...

    def read(self, path: Path) -> Detector:
        """The detector in a file."""
        ...

    def train(self, order: Order, sets: tuple[DetectionSet, DetectionSet], folder: Path, follow: Passed) -> Made:
        """Train, on the data staged in ``folder``; go on where an earlier call in the same folder was killed."""
        ...

    def search(self, detector: Detector, pruning: Pruning, hunt: Hunt, say: Callable[[str], None]) -> Pruning:
        """The shares of channels that serve a goal best; go on where an earlier call was killed."""
        ...

    def prune(self, detector: Detector, pruning: Pruning, size: tuple[int, int]) -> Made:
        """Take channels away."""
        ...

    def count(self, detector: Detector, size: tuple[int, int]) -> tuple[int, int]:
        """Parameters, and multiply-accumulates at (height, width)."""
        ...

    def judge(
        self, detector: Detector, data: DetectionSet, protocol: str, size: tuple[int, int], progress: Progress
    ) -> Assessment:
        """How accurate it is."""
        ...

    def write(self, path: Path, detector: Detector) -> str:
        """One .safetensors file; its sha256."""
        ...

    def write_ultralytics(self, path: Path, detector: Detector) -> None:
        """A .pt for Ultralytics."""
        ...

    def tools(self) -> Mapping[str, str]:
        """Versions of what does the work."""
        ...
