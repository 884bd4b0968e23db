"""Outputs for what is inside an ONNX graph: one per PyTorch module, as those read it that come after.

Where a value passes through Q/DQ on its way to every consumer, the tap shows it after them: what was clipped or rounded
there is what the rest of the network gets. The tap has a dequantiser of its own, so that the runtime still fuses the
graph's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedeploy.capture import MODULE_PATH_KEY, module_path
from edgedeploy.runtime import TAP

#: What a quantiser or a type converter puts between modules; it belongs to none.
BETWEEN = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


def add_taps(proto: Any) -> None:
    """Add to an ONNX model an output ``TAP + path`` (float32) per module.

    A module's output is what its last node gives to others. One that gives the very tensor of a module inside it gets
    no tap of its own. Nodes that know of no module are shown by their names (``name.1`` is a second output), inputs by
    theirs.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    graph = _Graph.of(inferred.graph)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    taps = {path: value for path, value in graph.modules().items() if graph.types.get(value) in floats}
    constants = {weight.name for weight in proto.graph.initializer}
    for value in proto.graph.input:
        if value.type.tensor_type.elem_type in floats and value.name not in {*constants, *taps}:
            taps = {value.name: value.name, **taps}
    for i, (path, value) in enumerate(taps.items()):
        shown = value
        quantiser = graph.quantiser(value)
        if quantiser is not None:
            shown = f"edgedeploy_dequantised_{i}"
            inputs = [quantiser.output[0], *quantiser.input[1:]]
            node = onnx.helper.make_node("DequantizeLinear", inputs, [shown], shown, domain=quantiser.domain)
            node.attribute.extend(a for a in quantiser.attribute if a.name == "axis")
            proto.graph.node.append(node)
        cast = onnx.helper.make_node("Cast", [shown], [TAP + path], f"edgedeploy_tap_{i}", to=onnx.TensorProto.FLOAT)
        proto.graph.node.append(cast)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(TAP + path, onnx.TensorProto.FLOAT, None))


@dataclass(frozen=True)
class _Graph:
    """Who makes and who reads each value; ``types`` are element types where they are known."""

    nodes: tuple[Any, ...]
    readers: Mapping[str, tuple[Any, ...]]
    outputs: frozenset[str]
    types: Mapping[str, int]
    paths: Mapping[int, str] = field(repr=False)

    @classmethod
    def of(cls, graph: Any) -> _Graph:
        readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        known = (*graph.input, *graph.value_info, *graph.output)
        return cls(
            nodes=tuple(graph.node),
            readers={name: tuple(found) for name, found in readers.items()},
            outputs=frozenset(value.name for value in graph.output),
            types={value.name: value.type.tensor_type.elem_type for value in known},
            paths={id(node): module_path(node) for node in graph.node},
        )

    def modules(self) -> dict[str, str]:
        """The tensor that leaves each module, innermost paths first in their order, without repetitions."""
        last: dict[str, str] = {}
        for node in self.nodes:
            if _between(node):
                continue
            path = self.paths[id(node)]
            if not _knows_module(node):
                last |= {f"{path}.{i}" if i else path: value for i, value in enumerate(node.output)}
                continue
            for scope in _scopes(path) if len(node.output) == 1 else ():
                if self._leaves(node.output[0], scope):
                    last.pop(scope, None)
                    last[scope] = node.output[0]
        innermost: dict[str, str] = {}
        for path, value in last.items():
            if len(path) > len(innermost.get(value, "")):
                innermost[value] = path
        return {path: value for path, value in last.items() if innermost[value] == path}

    def quantiser(self, value: str) -> Any | None:
        """The node that quantises ``value`` for whoever reads it; ``None`` where somebody reads it in float."""
        readers = self.readers.get(value, ())
        if not readers or value in self.outputs or any(node.op_type != "QuantizeLinear" for node in readers):
            return None
        return readers[0]

    def _leaves(self, value: str, scope: str) -> bool:
        """Whether somebody outside ``scope`` reads the value, or what Q/DQ and casts make of it."""
        if value in self.outputs:
            return True
        for node in self.readers.get(value, ()):
            if _between(node):
                if self._leaves(node.output[0], scope):
                    return True
            elif not _inside(self.paths[id(node)], scope):
                return True
        return False


def _knows_module(node: Any) -> bool:
    return any(prop.key == MODULE_PATH_KEY for prop in node.metadata_props)


def _between(node: Any) -> bool:
    return node.op_type in BETWEEN and not _knows_module(node)


def _inside(path: str, scope: str) -> bool:
    return path == scope or path.startswith(scope + ".")


def _scopes(path: str) -> Iterator[str]:
    """``a.b.c`` lies in ``a.b.c``, ``a.b`` and ``a``."""
    yield path
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
