"""The records: what one node costs, and a graph of them.

One multiply-add is two operations (FLOPs; of integers they are operations all the same). Bytes are those that a node
has to move where nothing stays in a cache: every activation read, every output written, every weight read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeCost:
    """What one node of a stored graph costs.

    Args:
        name: of the node; nodes without one are called after what they write.
        kind: its operator, with the domain in front where it is not ONNX's own (``com.microsoft:QLinearAdd``).
        flops: operations; 1 multiply-add = 2. 0 where it only moves data, and where `GraphCost.not_counted` has it.
        read: bytes of activations that it reads.
        written: bytes that it writes.
        weights: bytes of constants that it reads.
        dtype: what it computes in: ``fp32``, ``fp16``, ``bf16``, ``int8``, ... ``int8`` also for a float operator that
            stands between DequantizeLinear and QuantizeLinear, because it may be computed so.
        shape: of its first output; empty where that is a scalar or not known.
        inputs: activations that it reads, with their bytes: what is in ``read``.
        outputs: what is in ``written``.
    """

    name: str
    kind: str
    flops: int
    read: int
    written: int
    weights: int
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    outputs: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    @property
    def bytes(self) -> int:
        """All that it moves."""
        return self.read + self.written + self.weights

    @property
    def intensity(self) -> float:
        """Operations per byte; 0 where it moves nothing."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class GraphCost:
    """The nodes of a graph in their order.

    Args:
        nodes: constants are folded: what depends on no input is not among them.
        not_counted: kinds of nodes whose operations are not known, each once; they count as 0 in every sum.
        results: tensors that leave the graph.
    """

    nodes: tuple[NodeCost, ...]
    not_counted: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Operations of all nodes."""
        return sum(node.flops for node in self.nodes)

    @property
    def bytes(self) -> int:
        """What all nodes move if each reads and writes memory: nothing fused, nothing kept in a cache."""
        return sum(node.bytes for node in self.nodes)

    @property
    def weights(self) -> int:
        """Bytes of weights that all nodes read."""
        return sum(node.weights for node in self.nodes)

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    def fused(self, names: Iterable[str]) -> NodeCost | None:
        """The nodes called ``names`` as one: what stays inside is not moved. ``None`` where none of them is here."""
        chosen = set(names)
        group = [node for node in self.nodes if node.name in chosen]
        if not group:
            return None
        outside = {name for node in self.nodes if node.name not in chosen for name, _ in node.inputs}
        return sum_of(group, outside | set(self.results))


def sum_of(group: Sequence[NodeCost], wanted: Iterable[str]) -> NodeCost:
    """Several nodes as one, called after the one with the most operations; ``wanted`` are tensors that others read."""
    main = max(group, key=lambda node: node.flops)
    made = {name for node in group for name, _ in node.outputs}
    needed = set(wanted)
    inputs = {name: size for node in group for name, size in node.inputs if name not in made}
    last = {name for name, _ in group[-1].outputs}
    outputs = {name: size for node in group for name, size in node.outputs if name in needed or name in last}
    return NodeCost(
        name=main.name,
        kind=main.kind,
        flops=sum(node.flops for node in group),
        read=sum(inputs.values()),
        written=sum(outputs.values()),
        weights=sum(node.weights for node in group),
        dtype=main.dtype,
        shape=group[-1].shape,
        inputs=tuple(inputs.items()),
        outputs=tuple(outputs.items()),
    )
