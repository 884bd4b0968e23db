"""One ONNX node while it is being translated, and the two kinds of values that flow between nodes.

A value is a torch tensor, or a *host value*: a numpy array of numbers that are known while the network is traced
(constants, shapes and what is computed from them). Where a dimension is dynamic the array is of dtype ``object`` and
holds torch's symbolic integers, so that shape arithmetic never becomes control flow that depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

#: What a node computes: from its inputs, ``None`` where an optional one is left out, to a value or a tuple of values.
Function = Callable[..., Any]

#: ONNX element types (TensorProto.DataType) that torch computes with.
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


class Refused(Exception):
    """Torch cannot express a node; the message says which of its attributes or inputs is the reason."""


@dataclass
class Node:
    """What the maker of an operator looks at.

    A maker takes each attribute that it understands, so what is left over was understood by nobody and is refused.
    It may replace a constant input (a transposed weight) or remove it (what it has read out of it): a removed one is
    passed as ``None``.
    """

    op: str
    name: str
    path: str
    opset: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: dict[str, Any]
    constants: dict[int, torch.Tensor] = field(default_factory=dict)

    def take(self, key: str, default: Any = None) -> Any:
        """The attribute ``key``, else ``default``; text comes as ``str``."""
        value = self.attributes.pop(key, default)
        return value.decode() if isinstance(value, bytes) else value

    def only(self, key: str, *allowed: Any) -> None:
        """Take the attribute ``key``, which may only be one of ``allowed`` (the first where it is left out).

        Raises:
            Refused: it has another value.
        """
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise Refused(f"{key} {value!r}")

    def has(self, index: int) -> bool:
        """Whether the input at ``index`` is given, constant or not."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def dtype(self, number: int) -> torch.dtype:
        """The torch dtype of an ONNX element type.

        Raises:
            Refused: torch does not compute with it.
        """
        if number not in DTYPES:
            raise Refused(f"element type {number}")
        return DTYPES[number]


def integers(value: Any) -> list[Any]:
    """The integers, some of them perhaps symbolic, of a host value of rank 0 or 1."""
    return [v if isinstance(v, torch.SymInt) else int(v) for v in np.asarray(value).reshape(-1).tolist()]


def host(numbers: Sequence[Any]) -> Any:
    """A host value of rank 1 from integers, some of them perhaps symbolic."""
    symbolic = any(isinstance(n, torch.SymInt) for n in numbers)
    return np.array(list(numbers), dtype=object if symbolic else np.int64)


@dataclass(frozen=True)
class Real:
    """A symbolic integer that was cast to float; torch could not say of a symbolic float that it is whole."""

    value: torch.SymInt


def as_host(value: Any) -> Any:
    """What numpy gave as a host value: it makes bare scalars of arrays of rank 0, and keeps ``object`` too long."""
    if not isinstance(value, np.ndarray):
        value = np.asarray(value, dtype=object if isinstance(value, (torch.SymInt, Real, int)) else None)
    if value.dtype == object and not any(isinstance(v, (torch.SymInt, Real)) for v in value.flat):
        return value.astype(np.int64)
    return value


def as_tensor(value: Any) -> Any:
    """A host value as a tensor; symbolic integers stay symbolic."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype != object:  # not torch.from_numpy, which an export cannot see
        return torch.tensor(value.tolist(), dtype=torch.from_numpy(np.empty(0, value.dtype)).dtype)
    real = any(isinstance(v, Real) for v in value.flat)
    dtype = torch.float32 if real else torch.int64
    numbers: list[Any] = [v.value if isinstance(v, Real) else v for v in value.flat]
    flat = [torch.scalar_tensor(n, dtype=dtype) for n in numbers]
    return torch.stack(flat).reshape(value.shape)
