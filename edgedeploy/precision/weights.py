"""int8 weights in an ONNX graph whose activations and state stay in float: a quarter of the size, and no calibration.

Weights of each output channel (or of a block of 32 in it) become integers times a scale, symmetric around zero. What is
made of them depends on who runs the graph, see `Form`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy import plugins
from edgedeploy.capture import COMPUTES_KEY, module_path
from edgedeploy.errors import UsageError
from edgedeploy.precision.bodies import close_bodies
from edgedeploy.precision.recurrence import WEIGHTED, recurrent_nodes
from edgedeploy.runtime import Session
from edgedeploy.tensors import Array, Signature

#: How a graph holds its integers. ``dequantize``: DequantizeLinear in front of the layer, for compilers that know it.
#: ``products``: as ONNX Runtime is fastest. A layer that is a matrix product multiplies the integers themselves
#: (MatMulNBits; it rounds what it reads to 8 bits, 32 values at a time); what any other layer reads is put into float
#: when the graph is loaded.
Form = Literal["dequantize", "products"]
#: Weights per scale in a matrix product.
BLOCK = 32
#: A tensor of fewer weights is not worth it.
SMALLEST = 256
#: What the graph says it computes in.
COMPUTES = "int8 weights and fp32"


class WeightLowering:
    """One float ONNX file whose weights are rounded as often as a search asks; see `choice.Lowering`.

    What state goes round in (`recurrent_nodes`) is not rounded.

    Args:
        source: the float graph.
        signature: of the graph.
        form: how integers are held.
        work: folder for trials.

    Raises:
        UsageError: the graph has no weights worth rounding.
    """

    def __init__(self, source: Path, signature: Signature, form: Form, work: Path) -> None:
        self._signature, self._form, self._trial = signature, form, work / "weights.onnx"
        self._proto = onnx.load(source)
        graph = self._proto.graph
        close_bodies(graph)
        self.recurrent = recurrent_nodes(graph, signature.state)
        weights = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT}
        self._unit = {
            node.name: module_path(node)
            for node in graph.node
            if node.op_type in WEIGHTED
            and len(node.input) > 1
            and node.input[1] in weights
            and _worth(node, weights[node.input[1]].dims)
            and node.name not in self.recurrent
        }
        if not self._unit:
            raise UsageError(f"The graph has no layer with {SMALLEST} weights or more that could be in int8.")

    @property
    def units(self) -> list[str]:
        """Modules with weights, by path, in topological order; nodes that do not know theirs by name."""
        return list(dict.fromkeys(self._unit.values()))

    def open(self, lowered: frozenset[str]) -> Session:
        """See `choice.Lowering.open`; run by ONNX Runtime."""
        self.write(self._trial, lowered)
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        return cast(Session, runtime.open({"main": self._trial}, {"main": self._signature}))

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """What stays in float is just that: each module gains by itself."""
        return kept

    def write(self, target: Path, lowered: frozenset[str]) -> None:
        """Write the graph in which these modules have int8 weights."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        held = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
        made: list[Any] = []
        for node in proto.graph.node:
            if self._unit.get(node.name) in lowered:
                made += self._lower(proto.graph, node, held)
        nodes = [*made, *proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        _forget_unread(proto.graph)
        if any(node.domain == "com.microsoft" for node in nodes):
            known = {one.domain for one in proto.opset_import}
            proto.opset_import.extend([helper.make_opsetid("com.microsoft", 1)] if "com.microsoft" not in known else [])
        said = {p.key: p.value for p in proto.metadata_props}
        helper.set_model_props(proto, {**said, COMPUTES_KEY: COMPUTES})
        onnx.save(proto, target)

    def _lower(self, graph: Any, node: Any, held: dict[str, Array]) -> list[Any]:
        """Change ``node``, and the nodes that have to come before it, which belong to the weights."""
        name = node.input[1]
        weight = cast("npt.NDArray[np.float32]", held[name])
        if self._form == "products" and node.op_type in ("MatMul", "Gemm"):
            _multiply(graph, node, weight if _attribute(node, "transB") else weight.T)
            return []
        axis = _channels(node, weight.ndim)
        integers, whole, scale, floats = (f"{name}_{part}_{axis}" for part in ("int8", "cast", "scale", "float"))
        node.input[1] = floats
        if integers in {one.name for one in graph.initializer}:
            return []  # a weight that two layers share
        others = tuple(i for i in range(weight.ndim) if i != axis)
        step = _scale(np.abs(weight).max(axis=others, keepdims=True))
        rounded = np.rint(weight / step).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(rounded, integers))
        if self._form == "dequantize":
            graph.initializer.append(numpy_helper.from_array(step.ravel(), scale))
            return [helper.make_node("DequantizeLinear", [integers, scale], [floats], floats, axis=axis)]
        graph.initializer.append(numpy_helper.from_array(step, scale))
        return [
            helper.make_node("Cast", [integers], [whole], whole, to=TensorProto.FLOAT),
            helper.make_node("Mul", [whole, scale], [floats], floats),
        ]


def _multiply(graph: Any, node: Any, weight: npt.NDArray[np.float32]) -> None:
    """Make ``node`` a MatMulNBits of ``weight`` (outputs, inputs)."""
    outputs, inputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), np.float32)
    padded[:, :inputs] = weight
    parts = padded.reshape(outputs, blocks, BLOCK)
    step = _scale(np.abs(parts).max(axis=2))
    integers, scale = f"{node.name}_int8", f"{node.name}_scale"
    biased = (np.rint(parts / step[:, :, None]) + 128).astype(np.uint8)  # 128 is what the operator takes for zero
    graph.initializer.append(numpy_helper.from_array(biased, integers))
    graph.initializer.append(numpy_helper.from_array(step, scale))
    bias = ["", "", node.input[2]] if len(node.input) > 2 and node.input[2] else []
    node.op_type, node.domain = "MatMulNBits", "com.microsoft"
    node.input[:] = [node.input[0], integers, scale, *bias]
    del node.attribute[:]
    sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in sizes.items())


def _worth(node: Any, dims: Any) -> bool:
    """Whether the layer has weights enough, in a form that is understood here."""
    if int(np.prod(dims)) < SMALLEST or len(dims) < 2:
        return False
    if node.op_type == "Gemm":
        plain = all(_attribute(node, key, 1.0) == 1 for key in ("alpha", "beta")) or len(node.input) < 3
        return plain and _attribute(node, "alpha", 1.0) == 1 and not _attribute(node, "transA")
    return node.op_type == "Conv" or (len(dims) == 2 if node.op_type == "MatMul" else _attribute(node, "group", 1) == 1)


def _channels(node: Any, rank: int) -> int:
    """The axis of the weights that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def _attribute(node: Any, name: str, default: float = 0) -> float:
    found = next((one for one in node.attribute if one.name == name), None)
    return default if found is None else float(helper.get_attribute_value(found))


def _scale(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of a step from one integer to the next; 1 where there is nothing but zeros."""
    found: npt.NDArray[np.float32] = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return found


def _forget_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input}
    for weight in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(weight)
