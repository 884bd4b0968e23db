"""What goes in and out of a graph: names, dtypes, shapes with named dynamic dimensions, and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError

Array = npt.NDArray[np.generic]

DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    ``shape`` holds a number for a fixed dimension and a name for a dynamic one: ``(1, 3, "height", "width")``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every named dimension replaced from ``sizes``.

        Raises:
            UsageError: a dynamic dimension has no size.
        """
        missing = [d for d in self.shape if isinstance(d, str) and d not in sizes]
        if missing:
            raise UsageError(f"Input '{self.name}' needs a size for its dynamic dimension '{missing[0]}'.")
        return tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)

    def check(self, array: Array) -> None:
        """Refuse an array that this input cannot take.

        Raises:
            UsageError: dtype, rank or a fixed dimension differs.
        """
        if array.shape == self.shape and array.dtype == self.dtype:  # the usual call, before each step of a stream
            return
        fits = array.ndim == len(self.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(self.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(self.dtype):
            raise UsageError(
                f"Input '{self.name}' takes {self.dtype} {list(self.shape)}, "
                f"but was given {array.dtype} {list(array.shape)}."
            )


@dataclass(frozen=True)
class StateSpec:
    """A tensor carried from call to call: it enters as ``input``, leaves as ``output`` and starts at zero."""

    input: str
    output: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What one graph takes and gives, in call order. State tensors are in ``state`` and not in the other two."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StateSpec, ...] = ()

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Refuse a call with missing, unknown or ill-shaped inputs.

        Raises:
            UsageError: says which input and what it should have been.
        """
        names = [spec.name for spec in self.inputs]
        unknown = [name for name in inputs if name not in names]
        missing = [name for name in names if name not in inputs]
        if unknown or missing:
            wrong = f"'{unknown[0]}' is not an input" if unknown else f"input '{missing[0]}' is missing"
            raise UsageError(f"{wrong}; this graph takes {', '.join(names)}.")
        for spec in self.inputs:
            spec.check(inputs[spec.name])


def random_input(spec: TensorSpec, sizes: Mapping[str, int], seed: int) -> Array:
    """An array that ``spec`` takes, the same for the same seed: floats uniform in [0, 1), integers in [0, 128)."""
    generator = np.random.default_rng(seed)
    shape = spec.resolve(sizes)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return generator.random(shape, dtype=np.float32).astype(spec.dtype)
    return generator.integers(0, 2 if spec.dtype == "bool" else 128, shape).astype(spec.dtype)
