"""What a graph is to a predictor: the seconds that it would take if every node reached the roofline, class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.device import Device
from edgedeploy.errors import Unavailable
from edgedeploy.parts import PRECISIONS, Precision

#: Classes of nodes that reach the roofline alike: many operations per value written, as in convolutions and matrix
#: products; few, as in depthwise ones; element by element; moved only.
CLASSES = ("dense", "thin", "pointwise", "moving")
#: Kinds that multiply and add; what else computes does so element by element.
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention", "Einsum")
#: Operations per value written up to which a product is thin: a depthwise 5x5 convolution has 50.
_THIN = 64
_BYTES: Mapping[str, float] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1, "fp4": 0.5}


@dataclass(frozen=True)
class Roofs:
    """Peaks of one unit: operations per second by precision, and bytes per second.

    Raises:
        Unavailable: see `of` and `rate`.
    """

    unit: str
    peaks: Mapping[str, float]
    bandwidth: float

    @classmethod
    def of(cls, device: Device, unit: str, threads: int | None = None) -> Roofs:
        """The dense peaks that a profile states of ``unit``; of a CPU, the share that ``threads`` of its cores have.

        Raises:
            Unavailable: its memory bandwidth is unknown.
        """
        bandwidth = (device.memory.copy or device.memory.bandwidth).si or device.memory.bandwidth.si
        if bandwidth is None:
            raise Unavailable(
                f"The memory bandwidth of {device.name} is unknown, and without it nothing is predicted. Measure "
                "there, or add the bandwidth with its source to a profile of your own."
            )
        cores = _cores(device)
        share = min(1.0, threads / cores) if unit == "cpu" and threads and cores else 1.0
        known = {precision: device.peak(unit, precision).si for precision in PRECISIONS}
        return cls(unit, {name: rate * share for name, rate in known.items() if rate is not None}, bandwidth)

    def rate(self, dtype: str) -> float:
        """Operations per second in ``dtype``; what is no arithmetic type runs at that of fp32.

        Raises:
            Unavailable: the profile does not know it.
        """
        asked = dtype if dtype in PRECISIONS else "fp32"
        found = self.peaks.get(asked)
        if found is None:
            raise Unavailable(
                f"The dense {asked} peak of '{self.unit}' is unknown, and a share of an unknown peak is a guess. "
                "Measure on the device, or add the peak with its source to a profile of your own."
            )
        return found


@dataclass(frozen=True)
class Features:
    """Seconds at the roofline by class, and sizes.

    Args:
        dense: seconds that the nodes of this class would take at the roofline; ``thin``, ``pointwise``, ``moving`` too.
        nodes: how many there are.
        flops: operations of all.
        bytes: bytes that all of them move.
    """

    dense: float
    thin: float
    pointwise: float
    moving: float
    nodes: int
    flops: int
    bytes: int

    @property
    def row(self) -> npt.NDArray[np.float64]:
        """The four times and the number of nodes."""
        return np.array([self.dense, self.thin, self.pointwise, self.moving, self.nodes], np.float64)


def features(cost: GraphCost, roofs: Roofs, precision: Precision | None = None) -> Features:
    """What ``cost`` is on a unit with ``roofs``.

    Args:
        cost: of the graph.
        roofs: of the unit.
        precision: what floating point nodes are computed and stored in; as the graph has it where ``None``.
    """
    sums = dict.fromkeys(CLASSES, 0.0)
    nodes, moved = 0, 0.0
    for node in cost.nodes:
        if not node.bytes:
            continue  # a view of another tensor
        dtype, size = _computed(node, precision)
        sums[_class(node)] += max(node.flops / roofs.rate(dtype) if node.flops else 0.0, size / roofs.bandwidth)
        nodes, moved = nodes + 1, moved + size
    return Features(**sums, nodes=nodes, flops=cost.flops, bytes=round(moved))


def _class(node: NodeCost) -> str:
    if not node.flops:
        return "moving"
    if not any(product in node.kind for product in _PRODUCTS):
        return "pointwise"
    return "thin" if node.flops <= _THIN * max(1, math.prod(node.shape)) else "dense"


def _computed(node: NodeCost, precision: Precision | None) -> tuple[str, float]:
    if precision is None or node.dtype not in _BYTES:
        return node.dtype, float(node.bytes)
    return precision, node.bytes * _BYTES[precision] / _BYTES[node.dtype]


def _cores(device: Device) -> int | None:
    usable = device.cpu.usable.value if device.cpu.usable else None
    return usable or device.cpu.cores
