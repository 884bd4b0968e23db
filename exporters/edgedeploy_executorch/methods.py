"""Which methods a graph becomes: one for every shape where its delegate can vary them, else one per batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.precision.program import ProgramSession, again
from edgedeploy.runtime import Session
from edgedeploy.tensors import Array, Signature, random_input
from edgedeploy_executorch.contents import Entry
from edgedeploy_executorch.lower import state_of, unaliased

#: The largest batch of a graph whose batch is dynamic, where the user does not say. Memory is planned for it.
LARGEST_BATCH = 4
#: How far (relative L2 error) a lowered program may be from what it was lowered from, at another shape.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Part:
    """One graph in its final precision.

    Args:
        name: of the graph.
        module: a graph module, to be exported once more.
        signature: without state.
        stride: of a dynamic height and width.
        largest: of each dynamic dimension.
    """

    name: str
    module: torch.nn.Module
    signature: Signature
    stride: int
    largest: Mapping[str, int]

    def programs(self, varies: bool) -> dict[str, ExportedProgram]:
        """Its methods by name: one, or one per batch size where shapes cannot vary.

        Raises:
            UsageError: another dimension than the batch is dynamic, and cannot vary.
        """
        if varies or not self.largest:
            return {self.name: _settled(self._exported(self.largest, {}))}
        if set(self.largest) != {"batch"}:
            others = ", ".join(sorted(set(self.largest) - {"batch"}))
            raise UsageError(
                f"Graph '{self.name}' cannot keep {others} dynamic in this delegate: "
                "export it with a fixed size, once for each that is needed, or with --option delegate=portable."
            )
        return {f"{self.name}_batch{n}": _settled(self._exported({}, {"batch": n})) for n in self._batches()}

    def entry(self, varies: bool) -> Entry:
        """How the runtime calls them."""
        state = state_of(self._exported(self.largest, {}))
        if varies or not self.largest:
            return Entry({"": self.name}, dict(self.largest), state)
        return Entry({str(n): f"{self.name}_batch{n}" for n in self._batches()}, dict(self.largest), state)

    def _batches(self) -> range:
        return range(1, self.largest["batch"] + 1)

    def _exported(self, largest: Mapping[str, int], fixed: Mapping[str, int]) -> ExportedProgram:
        one = {name: 1 for name, most in largest.items() if most == 1}
        more = {name: most for name, most in largest.items() if most > 1}
        return again(self.module, self.signature, self.stride, more, {**one, **fixed})


def largest_of(signature: Signature, stride: int, asked: Mapping[str, int]) -> dict[str, int]:
    """The largest size of each dynamic dimension of a graph.

    Raises:
        UsageError: it was not given, or is too small.
    """
    largest: dict[str, int] = {}
    for name in dict.fromkeys(d for spec in signature.inputs for d in spec.shape if isinstance(d, str)):
        step = stride if name in ("height", "width") else 1
        size = asked.get(name, LARGEST_BATCH if name == "batch" else None)
        if size is None:
            raise UsageError(
                f"The dimension '{name}' is dynamic, and ExecuTorch plans memory for the largest size: give it with "
                f"""--option largest='{{"{name}": {20 * step}}}'."""
            )
        if size < step or size % step:
            raise UsageError(f"The largest '{name}' has to be a multiple of {step} over 0, not {size}.")
        largest[name] = size
    return largest


def stuck(part: Part, session: Session) -> str:
    """Why a lowered graph cannot vary its shapes after all; empty where it can. Runs it at its smallest and largest."""
    if not part.largest:
        return ""
    wanted = ProgramSession(part.module, part.signature, "exported", "")
    try:
        for inputs in _corners(part):
            for one in (session, wanted):
                one.reset()
            got, right = session.run(inputs, part.name), wanted.run(inputs)
            worst = max(_error(right[name], got[name]) for name in right)
            if not worst <= TOLERANCE:
                return f"its results at {_said(inputs)} are wrong"
    except RunFailed as error:
        return str(error)
    finally:
        session.reset()
    return ""


def _settled(program: ExportedProgram) -> ExportedProgram:
    return unaliased(program) if state_of(program) else program


def _corners(part: Part) -> Iterator[Mapping[str, Array]]:
    steps = {name: part.stride if name in ("height", "width") else 1 for name in part.largest}
    middle = {name: (most // steps[name] + 1) // 2 * steps[name] for name, most in part.largest.items()}
    for sizes in (dict(part.largest), steps, middle):
        if all(size // steps[name] for name, size in sizes.items()):
            yield {spec.name: random_input(spec, sizes, seed=1) for spec in part.signature.inputs}


def _error(right: Array, got: Array) -> float:
    if right.shape != got.shape:
        return float("inf")
    first, second = right.astype(np.float64), got.astype(np.float64)
    return float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-12))


def _said(inputs: Mapping[str, Any]) -> str:
    shapes: Sequence[str] = ["x".join(str(n) for n in array.shape) for array in inputs.values()]
    return ", ".join(shapes)
