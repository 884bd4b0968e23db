"""From the nodes and tensors of a graph to what they cost: constants are folded, Q/DQ resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from edgedeploy.cost.nodes import GraphCost, NodeCost
from edgedeploy.cost.operators import FACTORS, MOVES, PICKS, SHAPES, VIEWS, Operator, Tensor, operations

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_FLOATS = ("fp32", "fp16", "bf16")
#: What keeps the numbers of a stored constant, in another type, order or scale.
_CARRIES = frozenset({DEQUANTIZE, "Cast", "Transpose", "Mul", "Sub"}) | VIEWS


@dataclass(frozen=True, eq=False)
class Node:
    """A node as a file has it, in ONNX's words; an input that is left out has an empty name."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Resolved:
    """The nodes that compute, and who makes and who reads each tensor.

    Args:
        nodes: in an order in which they can run.
        tensors: what is known of each.
        results: tensors that leave the graph.
        stored: constants that were folded, with the constant that is stored for them.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    results: tuple[str, ...]
    stored: Mapping[str, Tensor]

    @classmethod
    def of(cls, nodes: Sequence[Node], known: Mapping[str, Tensor], results: Sequence[str]) -> Resolved:
        """Fold what depends on no input."""
        tensors = dict(known)
        computing: list[Node] = []
        stored: dict[str, Tensor] = {}
        for node in nodes:
            inputs = [tensors[name] for name in node.inputs if name in tensors]
            if node.kind not in SHAPES and not (inputs and all(tensor.constant for tensor in inputs)):
                computing.append(node)
                continue
            for name in node.outputs:
                tensors[name] = replace(tensors.get(name, Tensor(name, None, "unknown")), constant=True)
            if inputs and node.kind in _CARRIES:
                stored[node.outputs[0]] = stored.get(inputs[0].name, inputs[0])
        return cls(tuple(computing), tensors, tuple(results), stored)

    @cached_property
    def makers(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def quantized(self) -> frozenset[Node]:
        """Nodes in float that the Q/DQ around them let a runtime compute in int8."""
        return frozenset(node for node in self.nodes if self._quantized(node))

    def cost(self) -> GraphCost:
        """The costs of all nodes but the Q/DQ that only say what their neighbour computes in."""
        costs, unknown = [], dict[str, None]()
        for node in self.nodes:
            if self._absorbed(node):
                continue
            cost, counted = self._cost(node)
            costs.append(cost)
            if not counted:
                unknown[cost.kind] = None
        return GraphCost(tuple(costs), tuple(unknown), self.results)

    def _tensor(self, name: str) -> Tensor:
        return self.tensors.get(name) or Tensor(name, None, "unknown")

    def _quantized(self, node: Node) -> bool:
        """Weights and data come from integers; where there are no weights, the output becomes integers again."""
        if node.kind in (QUANTIZE, DEQUANTIZE):
            return False
        if node.kind in FACTORS:
            places = [i for i in FACTORS[node.kind] if i < len(node.inputs)]
            return all(self._dequantized(node.inputs[i]) is not None for i in places)
        floats = [tensor for tensor in map(self._tensor, filter(None, node.inputs)) if tensor.dtype in _FLOATS]
        data = [t.name for t in floats if not t.constant or t.name in self.stored]
        plain = [t for t in floats if t.name not in data and t.size > 1]
        if not data or (plain and node.kind not in MOVES | {"Resize", "Clip"}):
            return False
        return all(map(self._dequantized, data)) and all(map(self._requantized, node.outputs))

    def _dequantized(self, name: str) -> Tensor | None:
        """The integers that ``name`` was dequantised from."""
        if name in self.stored:
            return self.stored[name] if self.stored[name].dtype.startswith("int") else None
        maker = self.makers.get(name)
        return self.tensors.get(maker.inputs[0]) if maker is not None and maker.kind == DEQUANTIZE else None

    def _requantized(self, name: str) -> Tensor | None:
        """The integers that every reader of ``name`` makes of it."""
        readers = self.readers.get(name, ())
        if name in self.results or not readers or any(node.kind != QUANTIZE for node in readers):
            return None
        return self.tensors.get(readers[0].outputs[0])

    def _absorbed(self, node: Node) -> bool:
        if node.kind == DEQUANTIZE:
            readers = self.readers.get(node.outputs[0], ())
            return bool(readers) and all(reader in self.quantized for reader in readers)
        if node.kind == QUANTIZE:
            maker = self.makers.get(node.inputs[0])
            return maker in self.quantized and self._requantized(node.inputs[0]) is not None
        return False

    def _cost(self, node: Node) -> tuple[NodeCost, bool]:
        """What the node costs, and whether its operations are known."""
        inputs = tuple(self._tensor(name) if name else None for name in node.inputs)
        outputs = tuple(self._tensor(name) for name in node.outputs if name)
        kind = f"{node.domain}:{node.kind}" if node.domain not in ("", "ai.onnx") else node.kind
        flops = operations(Operator(kind, node.attributes, inputs, outputs))
        quantized = node in self.quantized
        given, made = self._moved(node, [tensor for tensor in inputs if tensor is not None], list(outputs))
        reads = tuple((t.name, t.bytes) for t in given if not t.constant)
        writes = tuple((name, t.bytes) for name, t in zip(node.outputs, made, strict=False))
        first = max(given or outputs, key=lambda tensor: tensor.size, default=None)
        cost = NodeCost(
            name=node.name or next(iter(node.outputs), node.kind),
            kind=kind,
            flops=flops or 0,
            read=sum(size for _, size in reads),
            written=sum(size for _, size in writes),
            weights=sum(t.bytes for t in given if t.constant),
            dtype="int8" if quantized else first.dtype if first is not None else "unknown",
            shape=(outputs[0].shape or ()) if outputs else (),
            inputs=reads,
            outputs=writes,
        )
        return cost, flops is not None

    def _moved(self, node: Node, given: list[Tensor], made: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What is really read and written: integers where it computes in them, nothing where it only views."""
        if node.kind in VIEWS:
            return [], []
        if node.kind in PICKS and given and made and made[0].shape is not None and made[0].size < given[0].size:
            given = [replace(given[0], shape=made[0].shape), *given[1:]]
        if node.kind in PICKS:
            given = [given[0], *(tensor for tensor in given[1:] if not tensor.constant)]
        if node not in self.quantized:
            return given, made
        integers = [(self._dequantized(t.name), t) for t in given]
        return (
            [replace(found, constant=t.constant) if found is not None else t for found, t in integers],
            [self._requantized(t.name) or t for t in made],
        )
