"""The task of a model of which nothing is known: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgedeploy.errors import UsageError
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array


@dataclass(frozen=True)
class Raw(Task[tuple[Array, ...]]):
    """Samples are the graph's inputs and results are its outputs, untouched."""

    kind: ClassVar[str] = "raw"

    def prepare(self, sample: Array | tuple[Array, ...]) -> Prepared:
        """The sample itself: one array, or one per input of the graph, each of the shape that the graph takes.

        Raises:
            UsageError: not an array or a tuple of arrays.
        """
        arrays = sample if isinstance(sample, tuple) else (sample,)
        if not arrays or not all(isinstance(array, np.ndarray) for array in arrays):
            raise UsageError("A raw sample is an array, or a tuple with one array per input of the graph.")
        return Prepared(tuple(np.ascontiguousarray(array) for array in arrays))

    def finish(self, outputs: Sequence[Array], context: Any) -> tuple[Array, ...]:
        """The outputs as they are."""
        return tuple(outputs)

    def distance(self, reference: tuple[Array, ...], result: tuple[Array, ...]) -> float:
        """The relative error ``|reference - result| / |reference|`` (L2 norms, at most 1) of the worst output.

        In an output with three or more dimensions the error is taken for each channel (second dimension) and averaged,
        because one tensor may hold quantities of different sizes: beside boxes in pixels, scores in 0..1 would
        otherwise not count. An output of another shape, or with NaN or infinity where the reference has none, is at
        distance 1.
        """
        if len(reference) != len(result):
            return 1.0
        return max((_distance(a, b) for a, b in zip(reference, result, strict=True)), default=0.0)


def _distance(reference: Array, result: Array) -> float:
    if reference.shape != result.shape:
        return 1.0
    first, second = reference.astype(np.float64), result.astype(np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if same.all():
        return 0.0
    if not (np.isfinite(first) & np.isfinite(second) | same).all():
        return 1.0
    first, second = np.where(same & ~np.isfinite(first), 0, [first, second])
    channels = first.shape[1] if first.ndim >= 3 else 1
    if first.ndim >= 3:
        first, second = np.moveaxis(first, 1, 0), np.moveaxis(second, 1, 0)
    # Scaled to 1 at most, so that squares neither overflow nor vanish.
    scale = np.maximum(np.abs(first), np.abs(second)).reshape(channels, -1).max(axis=1, keepdims=True)
    scale[scale == 0] = 1
    first, second = first.reshape(channels, -1) / scale, second.reshape(channels, -1) / scale
    error, size = np.linalg.norm(first - second, axis=1), np.linalg.norm(first, axis=1)
    ratio = np.where(error < size, error / np.where(size > 0, size, 1), (error > 0).astype(np.float64))
    return float(ratio.mean())
