"""The build plan: everything besides the ONNX graph that decides what engine TensorRT makes of it.

It lies beside the graph as ``NAME.build.json`` and is read on the device, so it needs nothing but the core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.records import from_json, read_json, to_json
from edgedeploy.tensors import Array

Flavour = Literal["tensorrt", "rtx"]
Hardware = Literal["none", "ampere_plus", "same_sm"]
Kind = Literal["fp32", "fp16", "bf16", "int8-weights", "int8"]

SCHEMA = 1
SUFFIX = ".build.json"
#: Largest size of a dimension that TensorRT can express.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Shapes:
    """Sizes of one input that an engine takes (``min`` to ``max``), and the one that it is tuned for (``opt``)."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what no optimisation profile can be."""
        if not len(self.min) == len(self.opt) == len(self.max):
            raise UsageError(f"min {self.min}, opt {self.opt} and max {self.max} are shapes of different rank.")
        sizes = zip(self.min, self.opt, self.max, strict=True)
        if not all(0 < low <= usual <= high <= LARGEST for low, usual, high in sizes):
            raise UsageError(
                f"min {list(self.min)}, opt {list(self.opt)} and max {list(self.max)} are no shapes: "
                f"sizes go from 1 to {LARGEST}, and min <= opt <= max."
            )

    @property
    def fixed(self) -> bool:
        """Whether only one shape is taken."""
        return self.min == self.max

    def take(self, array: Array) -> bool:
        """Whether an engine built for these shapes takes ``array``."""
        return len(array.shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, array.shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class Ahead:
    """An engine that was built before, without the GPU: its file beside the plan, and for which GPUs and library."""

    file: str
    sm: int
    library: str


@dataclass(frozen=True)
class Plan:
    """How the engine of one graph is built.

    Args:
        schema: of this record.
        flavour: ``tensorrt``, or ``rtx`` for TensorRT for RTX.
        precision: what the types in the graph say; TensorRT is not asked to choose others.
        requires: TensorRT and GPU that this plan was made for, as an artifact states them.
        shapes: of each input, in an optimisation profile; empty where all are fixed.
        strongly_typed: the types in the graph are binding. Without it (TensorRT 8, and the DLA before TensorRT 11),
            the layers are held to them one by one.
        workspace: bytes of scratch memory at most; TensorRT's default where ``None``.
        float_layers: nodes that compute in FP32 by the types in the graph; given only where types are not binding.
        dla_core: the DLA to run on, with layers that it cannot run on the GPU if ``gpu_fallback`` allows it.
        sparsity: use weights that are pruned two out of four.
        tf32: allow FP32 convolutions to round their inputs to 10 bits of mantissa.
        optimization_level: 0 (fast to build) to 5; TensorRT's default where ``None``.
        timing_cache: keep timings of layers beside the engines, which makes the next build shorter.
        hardware: run on other GPUs as well: those since Ampere, or those of the same compute capability.
        version_compatible: run with later versions of TensorRT of the same major one.
        ahead: engines that were built at export.
    """

    schema: Literal[1]
    flavour: Flavour
    precision: Kind
    requires: tuple[str, ...] = ()
    shapes: Mapping[str, Shapes] = field(default_factory=dict)
    strongly_typed: bool = True
    float_layers: tuple[str, ...] = ()
    workspace: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = True
    sparsity: bool = False
    tf32: bool = False
    optimization_level: int | None = None
    timing_cache: bool = True
    hardware: Hardware = "none"
    version_compatible: bool = False
    ahead: tuple[Ahead, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"A workspace of {self.workspace} bytes is none; leave it out for TensorRT's default.")
        if self.dla_core is not None and self.dla_core < 0:
            raise UsageError(f"dla_core {self.dla_core} is no number of a DLA: they count from 0.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"optimization_level {self.optimization_level} is not between 0 and 5.")
        for engine in self.ahead:
            if Path(engine.file).name != engine.file:
                raise UsageError(f"The engine '{engine.file}' is not a file beside its plan.")

    def with_engines(self, ahead: tuple[Ahead, ...]) -> Plan:
        """The same plan, with engines that were built by it."""
        return replace(self, ahead=ahead)


def beside(graph: Path) -> Path:
    """The plan file of the ONNX file ``graph``."""
    return graph.with_name(graph.stem + SUFFIX)


def write(plan: Plan, graph: Path) -> None:
    """Save ``plan`` beside ``graph``."""
    beside(graph).write_text(json.dumps(to_json(plan), indent=1, sort_keys=True) + "\n", "utf-8")


def read(graph: Path) -> Plan:
    """The plan beside ``graph``.

    Raises:
        UsageError: there is none, or it is not one: an unknown key, a wrong type, an impossible number.
        Incompatible: it was written by a newer version.
    """
    path = beside(graph)
    data = read_json(path, limit=1 << 20)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise Incompatible(
            f"{path} was written by a newer edgedeploy (schema {schema}, this one reads {SCHEMA}). "
            "Upgrade with: pip install -U edgedeploy"
        )
    try:
        return from_json(Plan, data, str(path))
    except UsageError as error:
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise UsageError(f"{text} The bundle is damaged; export or copy it again.") from error
