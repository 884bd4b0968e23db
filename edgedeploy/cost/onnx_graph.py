"""Reads ONNX files: dynamic dimensions get sizes, shapes are inferred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgedeploy.cost.operators import Tensor
from edgedeploy.cost.resolve import DEQUANTIZE, Node, Resolved
from edgedeploy.errors import Unavailable, UsageError

_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64", "UINT8": "int8"}
#: Constants of at most so many elements are read even where they are stored beside the file: they can be shapes.
_SMALL = 64


def read(path: Path, shapes: Mapping[str, tuple[int, ...]], batch: int) -> Resolved:
    """The graph of an ONNX file; weights that are stored beside it are not read.

    Raises:
        Unavailable: the package onnx is not installed.
        UsageError: not an ONNX file; a shape does not fit its input; a dynamic dimension has no size.
    """
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise Unavailable.extra("onnx, which reads graphs,", "export") from error
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # OSError, or protobuf's own, which has no place of its own to be imported from
        raise UsageError(f"{path} is not a readable ONNX file ({str(error) or type(error).__name__}).") from error
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    _bind(proto.graph, shapes, batch)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) <= _SMALL:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    _fold(proto.graph)
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return Resolved.of([_node(node) for node in graph.node], dict(_tensors(graph)), [v.name for v in graph.output])


def _bind(graph: Any, shapes: Mapping[str, tuple[int, ...]], batch: int) -> None:
    """Give every dimension of the inputs a size, and forget the shapes that were inferred before."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    unknown = [name for name in shapes if name not in {value.name for value in inputs}]
    if unknown:
        raise UsageError(f"This graph has no input '{unknown[0]}', only {', '.join(v.name for v in inputs)}.")
    sizes: dict[str, int] = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        given = shapes.get(value.name)
        if given is not None and len(given) != len(dims):
            raise UsageError(f"Input '{value.name}' has {len(dims)} dimensions, and was given {list(given)}.")
        for i, dim in enumerate(dims):
            _bind_one(value.name, i, dim, batch if given is None else given[i], given is not None, sizes)
    del graph.value_info[:]
    for value in graph.output:
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")


def _bind_one(name: str, axis: int, dim: Any, size: int, told: bool, sizes: dict[str, int]) -> None:
    if dim.HasField("dim_value"):
        if told and size != dim.dim_value:
            raise UsageError(f"Input '{name}' is {dim.dim_value} along axis {axis}, not {size}.")
        return
    if not told and dim.dim_param in sizes:
        size = sizes[dim.dim_param]
    elif not told and axis > 0:
        raise UsageError(f"Input '{name}' needs a size for its dynamic dimension '{dim.dim_param or axis}'.")
    if dim.dim_param:
        sizes.setdefault(dim.dim_param, size)
    dim.dim_value = size


def _fold(graph: Any) -> None:
    """Compute what depends on small constants only: shape inference does not look through every operator."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    small = {t.name: t for t in graph.initializer if math.prod(t.dims) <= _SMALL}
    for node in graph.node:
        given = [name for name in node.input if name]
        if not given or len(node.output) != 1 or any(name not in small for name in given) or node.op_type == DEQUANTIZE:
            continue
        try:
            value = ReferenceEvaluator(node).run(None, {name: numpy_helper.to_array(small[name]) for name in given})[0]
            folded = numpy_helper.from_array(value, node.output[0])
        except Exception:  # whatever the reference cannot compute stays a node, and its shape perhaps unknown
            continue
        graph.initializer.append(folded)
        small[folded.name] = folded


def _node(proto: Any) -> Node:
    import onnx

    skipped = (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute if a.type not in skipped}
    return Node(proto.name, proto.op_type, tuple(proto.input), tuple(proto.output), attributes, proto.domain)


def _tensors(graph: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of which something is known."""
    import onnx

    types = {number: name for name, number in onnx.TensorProto.DataType.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        sizes = tuple(dim for dim in dims if dim is not None)
        known = kind.HasField("shape") and len(sizes) == len(dims)
        yield value.name, Tensor(value.name, sizes if known else None, _name(types[kind.elem_type]))
    for tensor in graph.initializer:
        yield tensor.name, Tensor(tensor.name, tuple(tensor.dims), _name(types[tensor.data_type]), constant=True)


def _name(onnx_type: str) -> str:
    """``FLOAT16`` is ``fp16``, ``UINT8`` is ``int8`` (the arithmetic is the same), ``INT64`` is ``int64``."""
    return _NAMES.get(onnx_type, onnx_type.lower())
