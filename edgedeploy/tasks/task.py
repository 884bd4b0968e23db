"""What a model is for, without torch: from a sample to tensors, from those to a result, and how far results differ.

A task is a frozen dataclass. Its fields are the *task contract*: they are saved in the artifact, so that the device
does to an image exactly what was done to it in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from edgedeploy.errors import UsageError
from edgedeploy.tensors import Array

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """One sample, ready to run: a tensor per graph input in graph order, batch 1, and what `Task.finish` needs back."""

    tensors: tuple[Array, ...]
    context: Any = None


class Feed(Protocol):
    """The host's side of one stream: what is heard comes in by pieces, and the tensors of the graph's steps come out.

    A step is a call of the graph `STREAM`: one array per input of it, in graph order, its state not among them.
    """

    def push(self, piece: Array) -> list[tuple[Array, ...]]:
        """The steps that have become possible with the next ``piece`` of the stream: none, one or several.

        Raises:
            UsageError: the piece is not of the kind that the task takes.
        """
        ...

    def finish(self) -> list[tuple[Array, ...]]:
        """The steps that are left when the stream has ended."""
        ...

    def reset(self) -> None:
        """Forget what was pushed: the next piece is the first of another stream."""
        ...


#: The graph of a streaming model that takes one step of a stream, and carries its state from step to step.
STREAM = "stream"


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

    def feed(self) -> Feed:
        """What makes steps of the graph `STREAM` out of the pieces of a stream.

        Raises:
            UsageError: the task takes samples one by one, and no stream.
        """
        raise UsageError(f"A model for the task '{self.kind}' takes samples one by one, and no stream.")

    def heard(self, outputs: Sequence[Array]) -> Result | None:
        """What is known after a step, from its outputs in graph order; ``None`` while nothing is.

        Raises:
            UsageError: the task takes samples one by one, and no stream.
        """
        raise UsageError(f"A model for the task '{self.kind}' takes samples one by one, and no stream.")
