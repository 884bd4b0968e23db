"""State that is carried from call to call, as Core ML has it: buffers that the network changes, all of them in fp16.

What fp16 would falsify is kept in two parts, of which the second has what rounding took from the first. Both together
hold what float32 does, up to 16 million: 22 bits or more, steps of 4e-9 near zero, whole numbers up to 8 million.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedeploy.tensors import Array, Signature, StateSpec

#: Behind the name of a state, in that of its second part.
REST = "_rest"
#: What the two parts are multiplied with, so that neither overflows nor loses its last bits.
COARSE, FINE = 1 / 256, 8.0


class Stateful(torch.nn.Module):
    """A network whose state goes in and comes out as one whose buffers change, which is what Core ML has.

    Args:
        network: takes its state after its inputs, and gives it after its outputs.
        signature: with the state.
        names: of the buffers, by `StateSpec.input`.
        whole: the state that is kept in two parts, by `StateSpec.input`.
    """

    def __init__(
        self, network: torch.nn.Module, signature: Signature, names: dict[str, str], whole: Collection[str]
    ) -> None:
        super().__init__()
        self.network = network
        self._outputs = len(signature.outputs)
        self._kept = [(names[spec.input], spec.input in whole) for spec in signature.state]
        for spec, (name, split) in zip(signature.state, self._kept, strict=True):
            kind = torch.float16 if split else getattr(torch, spec.dtype)
            for part in (name, name + REST) if split else (name,):
                self.register_buffer(part, torch.zeros(spec.shape, dtype=kind))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs; the state goes into the buffers."""
        results = tuple(self.network(*inputs, *(self._read(name, split) for name, split in self._kept)))
        for (name, split), value in zip(self._kept, results[self._outputs :], strict=True):
            self._write(name, split, value)
        # The last operation must be no state's new value: a pass of Core ML Tools 9 then loses its place, and fails.
        return tuple(torch.maximum(value, value) for value in results[: self._outputs])

    def _read(self, name: str, split: bool) -> Tensor:
        first: Tensor = getattr(self, name)
        if not split:
            return first
        rest: Tensor = getattr(self, name + REST)
        return first.float() / COARSE + rest.float() / FINE

    def _write(self, name: str, split: bool, value: Tensor) -> None:
        if not split:
            getattr(self, name).copy_(value)
            return
        first = (value * COARSE).half()
        getattr(self, name).copy_(first)
        getattr(self, name + REST).copy_(((value - first.float() / COARSE) * FINE).half())


def joined(spec: StateSpec, name: str, parts: dict[str, Array]) -> Array:
    """A state of the signature out of Core ML's."""
    first = parts[name].astype(np.float32)
    if name + REST in parts:
        first = first / np.float32(COARSE) + parts[name + REST].astype(np.float32) / np.float32(FINE)
    return np.ascontiguousarray(first.astype(spec.dtype))


def parted(name: str, value: Array, split: bool) -> Iterator[tuple[str, Array]]:
    """Core ML's state out of one of the signature: each part, rounded to fp16."""
    if not split:
        yield name, value.astype(np.float16)
        return
    first = (value.astype(np.float32) * np.float32(COARSE)).astype(np.float16)
    yield name, first
    rest: Any = value.astype(np.float32) - first.astype(np.float32) / np.float32(COARSE)
    yield name + REST, (rest * np.float32(FINE)).astype(np.float16)


def plain_name(name: str) -> str:
    """A name as Core ML takes it: letters, digits, underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"
