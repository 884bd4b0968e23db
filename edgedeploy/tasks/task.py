"""What a model is for, without torch: from a sample to tensors, from those to a result, and how far results differ.

A task is a frozen dataclass. Its fields are the *task contract*: they are saved in the artifact, so that the device
does to an image exactly what was done to it in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from edgedeploy.tensors import Array

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """One sample, ready to run: a tensor per graph input in graph order, batch 1, and what `Task.finish` needs back."""

    tensors: tuple[Array, ...]
    context: Any = None


@dataclass(frozen=True)
class Task(ABC, Generic[Result]):
    """The contract between a model and the world."""

    kind: ClassVar[str]

    @abstractmethod
    def prepare(self, sample: Array) -> Prepared:
        """The tensors for one sample.

        Raises:
            UsageError: the sample is not of the kind that the task takes.
        """

    @abstractmethod
    def finish(self, outputs: Sequence[Array], context: Any) -> Result:
        """The result for one sample from the graph's outputs in graph order (batch 1)."""

    def comparable(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of a graph in a form in which a small error makes a small difference; here as they are."""
        return dict(outputs)

    @abstractmethod
    def distance(self, reference: Result, result: Result) -> float:
        """How far ``result`` is from ``reference``: 0 for the same, 1 for nothing in common."""
