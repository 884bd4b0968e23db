"""Q/DQ nodes where compilers want them: on the inputs of what has weights, and nowhere else.

A general quantiser also puts them behind a convolution and around what follows it. TensorRT and OpenVINO would then
have to round between a convolution and its activation, which they otherwise compute as one kernel: slower, and less
exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import onnx

from edgedeploy import plugins
from edgedeploy.capture import module_path
from edgedeploy.precision.bodies import close_bodies
from edgedeploy.precision.qdq import QdqLowering, Scheme
from edgedeploy.precision.recurrence import WEIGHTED
from edgedeploy.runtime import Session
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Signature


class InputLowering:
    """One float ONNX file, quantised at the inputs of weighted nodes; see `edgedeploy.precision.choice.Lowering`.

    Args:
        source: the float graph.
        signature: of the graph.
        scheme: how values become integers.
        work: folder for what is in between.
    """

    def __init__(self, source: Path, signature: Signature, scheme: Scheme, work: Path) -> None:
        self._all = QdqLowering(source, signature, scheme, work)
        self._signature, self._trial = signature, work / "placed.onnx"
        graph = onnx.load(source, load_external_data=False).graph
        self._constants = {constant.name: constant for constant in graph.initializer}
        self._unit = {node.name: module_path(node) for node in graph.node if node.op_type in WEIGHTED}
        self._units = [unit for unit in self._all.units if unit in self._unit.values()]

    @property
    def units(self) -> list[str]:
        """Modules with weights, by path, in topological order."""
        return list(self._units)

    def calibrate(self, samples: Sequence[Prepared]) -> None:
        """See `QdqLowering.calibrate`."""
        self._all.calibrate(samples)

    def open(self, lowered: frozenset[str]) -> Session:
        """See `edgedeploy.precision.choice.Lowering.open`; run by ONNX Runtime."""
        self.write(self._trial, lowered)
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        return cast(Session, runtime.open({"main": self._trial}, {"main": self._signature}))

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """What stays in float is just that: each module gains by itself."""
        return kept

    def write(self, target: Path, lowered: frozenset[str]) -> None:
        """Write the graph in which these modules take int8."""
        self._all.write(target, lowered & frozenset(self._units))
        proto = onnx.load(target)
        place(proto.graph, frozenset(name for name, unit in self._unit.items() if unit in lowered), self._constants)
        onnx.save(proto, target)


def place(graph: Any, chosen: frozenset[str], constants: Mapping[str, Any]) -> None:
    """Take Q/DQ pairs out of ``graph``, except in front of the nodes ``chosen`` by name.

    Args:
        graph: ONNX graph as the quantiser left it; is changed.
        chosen: nodes that take int8.
        constants: tensors by name as they were before, for nodes that get theirs back.
    """
    close_bodies(graph)
    plain = _unquantized(graph, constants)
    outputs = {value.name for value in graph.output}
    # The pair in front of an output of the graph has taken its name. What was quantised gets it back, and the pair,
    # which may be in front of a chosen node as well, another one.
    names = {_through(plain, name): name for name in outputs & set(plain)}
    moved = {name: f"{name}_dequantized" for name in outputs & set(plain)}
    nodes = list(graph.node)
    for node in nodes:
        for i, name in enumerate(node.input):
            kept_name = moved.get(name, name) if node.name in chosen else _through(plain, name)
            node.input[i] = names.get(kept_name, kept_name)
        made = moved if node.op_type == "DequantizeLinear" else names
        node.output[:] = [made.get(name, name) for name in node.output]
    used: set[str] = set()
    for node in reversed(nodes):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.output[0] in used:
            used |= set(node.input)
    kept = [n for n in nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear") or n.output[0] in used]
    held = {constant.name: constant for constant in graph.initializer}
    tensors = [held.get(name, constants.get(name)) for name in sorted(used)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for tensor in tensors if tensor is not None)


def _unquantized(graph: Any, constants: Mapping[str, Any]) -> dict[str, str]:
    """Outputs of DQ nodes, and the names of what was quantised: another node's output, or a constant."""
    quantizers = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            source = quantizers.get(node.input[0]) or node.input[0].removesuffix("_quantized")
            if source in constants or node.input[0] in quantizers:
                found[node.output[0]] = source
    return found


def _through(plain: Mapping[str, str], name: str) -> str:
    while name in plain:
        name = plain[name]
    return name
