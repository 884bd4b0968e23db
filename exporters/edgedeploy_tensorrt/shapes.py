"""From the dynamic dimensions of a graph and the sizes that the user names to an optimisation profile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.model import Graph
from edgedeploy_tensorrt.plan import LARGEST, Shapes

#: Sizes (smallest, usual, largest) of a dynamic batch, and of an image side in strides, where the user names none.
BATCH, SIDES = (1, 1, 8), (10, 20, 40)


@dataclass(frozen=True)
class Profile:
    """Shapes of each input that has a dynamic dimension, and what the user should know about where they are from."""

    shapes: Mapping[str, Shapes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def parse(text: str) -> tuple[str, tuple[int, int, int]]:
    """``"batch=1:4:8"`` as the dimension's name and its smallest, usual and largest size; one number stands for all.

    Raises:
        UsageError: it is not written like that, or the sizes do not grow.
    """
    found = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9]+)(?:\s*:\s*([0-9]+)\s*:\s*([0-9]+))?\s*", text)
    if found is None:
        raise UsageError(f"'{text}' are no sizes of a dimension: write NAME=MIN:USUAL:MAX, as in batch=1:4:8.")
    low, usual, high = (int(found[i] or found[2]) for i in (2, 3, 4))
    if not 0 < low <= usual <= high <= LARGEST:
        raise UsageError(f"'{text}': sizes have to be 1 or more, and smallest, usual and largest in this order.")
    return found[1], (low, usual, high)


def profile_of(graph: Graph, given: Sequence[str]) -> Profile:
    """The optimisation profile of ``graph``.

    Args:
        graph: its signature names the dynamic dimensions.
        given: sizes by name, see `parse`.

    Raises:
        UsageError: sizes of a dimension that is not dynamic, or none for one whose sizes cannot be guessed.
    """
    inputs = graph.signature.inputs
    names = list(dict.fromkeys(d for spec in inputs for d in spec.shape if isinstance(d, str)))
    sizes = dict(parse(text) for text in given)
    for name in sizes:
        if name not in names:
            known = did_you_mean(name, names) or " It has none: export with --dynamic."
            raise UsageError(f"The graph has no dynamic dimension '{name}'.{known}")
    notes = []
    for name in names:
        if name not in sizes:
            sizes[name] = _usual(name, graph.stride)
            low, usual, high = sizes[name]
            notes.append(
                f"the engine takes a {name} of {low} to {high} and is tuned for {usual}; "
                f"for others add --option shapes={name}=MIN:USUAL:MAX"
            )
    for name in set(sizes) & {"height", "width"}:
        if any(size % graph.stride for size in sizes[name]):
            raise UsageError(f"{name}={sizes[name]}: sizes of this model's images are multiples of {graph.stride}.")
    dynamic = [spec for spec in inputs if any(isinstance(d, str) for d in spec.shape)]
    return Profile(
        {
            spec.name: Shapes(*(tuple(sizes[d][i] if isinstance(d, str) else d for d in spec.shape) for i in range(3)))
            for spec in dynamic
        },
        tuple(notes),
    )


def _usual(name: str, stride: int) -> tuple[int, int, int]:
    if name == "batch":
        return BATCH
    if name in ("height", "width") and stride > 1:
        return (SIDES[0] * stride, SIDES[1] * stride, SIDES[2] * stride)
    raise UsageError(
        f"'{name}' is dynamic, and TensorRT has to know its smallest, usual and largest size before it builds: "
        f"add --option shapes={name}=MIN:USUAL:MAX, with several in a JSON list."
    )
