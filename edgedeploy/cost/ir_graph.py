"""Reads OpenVINO's IR, which is XML: layers with their shapes, and edges; no runtime is needed for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgedeploy.cost.operators import Tensor
from edgedeploy.cost.resolve import DEQUANTIZE, QUANTIZE, Node, Resolved
from edgedeploy.errors import UsageError

_TYPES = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "FP64": "fp64", "U8": "int8", "I8": "int8", "BOOL": "bool"}
_TYPES |= {"I4": "int4", "U4": "uint4", "I16": "int16", "I32": "int32", "I64": "int64"}
#: OpenVINO's name of an operator to ONNX's, where they differ.
_KINDS = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "MatMul": "FusedMatMul",
    "ConvolutionBackpropData": "ConvTranspose",
    "GroupConvolutionBackpropData": "ConvTranspose",
    "Multiply": "Mul",
    "Subtract": "Sub",
    "Divide": "Div",
    "Power": "Pow",
    "Negative": "Neg",
    "Ceiling": "Ceil",
    "ReLU": "Relu",
    "PReLU": "PRelu",
    "Clamp": "Clip",
    "HSwish": "HardSwish",
    "HSigmoid": "HardSigmoid",
    "SoftMax": "Softmax",
    "SoftPlus": "Softplus",
    "Maximum": "Max",
    "Minimum": "Min",
    "Select": "Where",
    "LessEqual": "LessOrEqual",
    "GreaterEqual": "GreaterOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "LogicalNot": "Not",
    "FloorMod": "Mod",
    "AvgPool": "AveragePool",
    "Interpolate": "Resize",
    "MVN": "MeanVarianceNormalization",
    "NormalizeL2": "LpNormalization",
    "RMS": "RMSNormalization",
    "Convert": "Cast",
    "VariadicSplit": "Split",
    "StridedSlice": "Slice",
    "Broadcast": "Expand",
    "ShapeOf": "Shape",
    "ReadValue": "Identity",
    "Assign": "Identity",
    "ScaledDotProductAttention": "Attention",
    "LSTMSequence": "LSTM",
    "GRUSequence": "GRU",
    "RNNSequence": "RNN",
    "ScatterNDUpdate": "ScatterND",
}
#: Where data, input and recurrent weights are among the inputs of a recurrent layer.
_RECURRENT = {"LSTMSequence": (0, 4, 5), "GRUSequence": (0, 3, 4), "RNNSequence": (0, 3, 4)}


def read(path: Path, batch: int) -> Resolved:
    """The graph of an IR file. A dynamic first dimension is ``batch``; of others the sizes are not known.

    Raises:
        UsageError: not a readable IR.
    """
    try:
        root = ElementTree.parse(path).getroot()
        layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        edges = {
            (e.attrib["to-layer"], e.attrib["to-port"]): f"{e.attrib['from-layer']}.{e.attrib['from-port']}"
            for e in root.iterfind("edges/edge")
        }
    except (OSError, ElementTree.ParseError, KeyError) as error:
        raise UsageError(f"{path} is not a readable OpenVINO IR ({error}).") from error
    tensors = {tensor.name: tensor for layer in layers.values() for tensor in _outputs(layer, batch)}
    inputs = {i: _inputs(layer, edges) for i, layer in layers.items()}
    results = [name for i, layer in layers.items() if layer.attrib["type"] == "Result" for name in inputs[i]]
    nodes = [node for i, layer in layers.items() for node in _nodes(layer, inputs[i], tensors)]
    return Resolved.of(nodes, tensors, results)


def _outputs(layer: ElementTree.Element, batch: int) -> Iterator[Tensor]:
    constant = layer.attrib["type"] == "Const"
    for port in layer.iterfind("output/port"):
        dims = [int(dim.text or -1) for dim in port.iterfind("dim")]
        if dims and dims[0] < 0:
            dims[0] = batch
        shape = None if any(dim < 0 for dim in dims) else tuple(dims)
        kind = port.attrib.get("precision", "")
        name = f"{layer.attrib['id']}.{port.attrib['id']}"
        yield Tensor(name, shape, _TYPES.get(kind, kind.lower() or "unknown"), constant)


def _inputs(layer: ElementTree.Element, edges: Mapping[tuple[str, str], str]) -> list[str]:
    ports = [port.attrib["id"] for port in layer.iterfind("input/port")]
    return [edges.get((layer.attrib["id"], port), "") for port in ports]


def _nodes(layer: ElementTree.Element, inputs: list[str], tensors: dict[str, Tensor]) -> Iterator[Node]:
    """The layer in ONNX's words; one that rounds to few levels is a Q/DQ pair."""
    kind, name = layer.attrib["type"], layer.attrib.get("name", "")
    outputs = tuple(f"{layer.attrib['id']}.{port.attrib['id']}" for port in layer.iterfind("output/port"))
    if kind in ("Parameter", "Const", "Result"):
        return
    if kind == "FakeQuantize":
        whole = f"{outputs[0]}.integers"
        tensors[whole] = Tensor(whole, tensors[outputs[0]].shape, "int8")
        yield Node(f"{name}/quantize", QUANTIZE, (inputs[0],), (whole,))
        yield Node(name, DEQUANTIZE, (whole,), outputs)
        return
    if kind.startswith("Group") and inputs[1] in tensors:
        inputs = [inputs[0], _ungrouped(inputs[1], tensors)]
    if kind in _RECURRENT:
        inputs = [inputs[i] for i in _RECURRENT[kind]]
    yield Node(name, _KINDS.get(kind, kind), tuple(inputs), outputs, _attributes(layer))


def _ungrouped(name: str, tensors: dict[str, Tensor]) -> str:
    """Grouped weights, whose first axis are the groups, as ONNX has them; a view of the same constant."""
    shape = tensors[name].shape
    if shape is not None:
        tensors[name] = Tensor(name, (shape[0] * shape[1], *shape[2:]), tensors[name].dtype, tensors[name].constant)
    return name


def _attributes(layer: ElementTree.Element) -> dict[str, Any]:
    data = layer.find("data")
    said: Mapping[str, str] = {} if data is None else data.attrib
    found: dict[str, Any] = {}
    if "kernel" in said:
        found["kernel_shape"] = tuple(int(size) for size in said["kernel"].split(","))
    if "mode" in said:
        found["mode"] = next(itertools.chain(said["mode"].split("_"), [""]))
    if said.get("transpose_a", "").lower() in ("true", "1"):
        found["transA"] = 1
    return found
