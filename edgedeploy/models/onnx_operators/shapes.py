"""Operators on host values: shape arithmetic, done in Python while the network is traced.

Each has a namesake among the operators on tensors, which is used as soon as one input is a tensor, or where the one
here returns ``NotImplemented``. These makers only look at the attributes; their namesakes check and take them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgedeploy.models.onnx_operators.node import Function, Node, Real, host, integers

#: Numpy types of the element types that shape arithmetic is done in.
_NUMPY = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}

#: How many numbers ConstantOfShape and Range may make on the host.
_FEW = 8


def shape(node: Node) -> Function:
    """The dimensions of a tensor or of a host value, ``start`` to ``end`` (opset 15)."""
    start, end = node.take("start", 0), node.take("end")
    return lambda x: host(list(x.shape)[start:end])


def size(node: Node) -> Function:
    """The number of elements."""
    return lambda x: np.asarray(math.prod(x.shape), dtype=object if _symbolic(x) else np.int64)


def _symbolic(x: Any) -> bool:
    return any(isinstance(d, torch.SymInt) for d in x.shape)


def _elementwise(function: Callable[..., Any]) -> Callable[[Node], Function]:
    """An operator that has no answer for a symbolic integer that was cast to float: tensors have one."""

    def compute(*values: Any) -> Any:
        real = any(v.dtype == object and any(isinstance(n, Real) for n in v.flat) for v in values)
        return NotImplemented if real else function(*values)

    return lambda node: compute


def _concrete(function: Callable[..., Any]) -> Callable[[Node], Function]:
    """An operator that symbolic integers have no answer for."""

    def make(node: Node) -> Function:
        return lambda *values: NotImplemented if any(v.dtype == object for v in values) else function(*values)

    return make


def _quotient(a: Any, b: Any) -> Any:
    """ONNX divides integers towards zero, Python towards minus infinity."""
    if isinstance(a, (float, np.floating)):
        return a / b
    quotient = (-a if a < 0 else a) // (-b if b < 0 else b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _div(a: Any, b: Any) -> Any:
    if np.issubdtype(a.dtype, np.floating):
        return a / b
    result = np.frompyfunc(_quotient, 2, 1)(a, b)
    return result if object in (a.dtype, b.dtype) else np.asarray(result).astype(a.dtype)


def cast(node: Node) -> Function:
    """Between the types of shape arithmetic."""
    wanted = _NUMPY.get(node.attributes["to"])

    def compute(x: Any) -> Any:
        if wanted is None or (x.dtype == object and wanted not in (np.int32, np.int64, np.float32)):
            return NotImplemented
        if x.dtype != object:
            return x.astype(wanted)
        result = np.empty(x.shape, object)
        for i, v in np.ndenumerate(x):
            whole = v.value if isinstance(v, Real) else v
            result[i] = Real(whole) if wanted is np.float32 else whole
        return result

    return compute


def gather(node: Node) -> Function:
    """Some of the entries."""
    axis = node.attributes.get("axis", 0)
    return lambda x, indices: np.take(x, indices.astype(np.int64), axis=axis)


def concat(node: Node) -> Function:
    """Joined along ``axis``."""
    axis = node.attributes["axis"]
    return lambda *values: np.concatenate(values, axis=axis)


def slice_(node: Node) -> Function:
    """Opset 10 and later, where starts, ends, axes and steps are inputs."""

    def compute(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
        where = [slice(None)] * x.ndim
        chosen = range(len(starts)) if axes is None else integers(axes)
        strides = [1] * len(starts) if steps is None else integers(steps)
        for axis, start, end, step in zip(chosen, integers(starts), integers(ends), strides, strict=True):
            where[axis] = slice(max(start, -x.shape[axis]) if step < 0 else start, end, step)
        return x[tuple(where)]

    return compute


def squeeze(node: Node) -> Function:
    """Without the dimensions of size 1."""
    given = node.attributes.get("axes")

    def compute(x: Any, axes: Any = None) -> Any:
        chosen = given if axes is None else integers(axes)
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return compute


def unsqueeze(node: Node) -> Function:
    """With new dimensions of size 1."""
    given = node.attributes.get("axes") or ()
    return lambda x, axes=None: np.expand_dims(x, tuple(given if axes is None else integers(axes)))


def reshape(node: Node) -> Function:
    """The same entries in another shape."""
    return lambda x, to: x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(integers(to))])


def reduce_prod(node: Node) -> Function:
    """The product of all; of a part of them only tensors are asked in practice."""
    keep = node.attributes.get("keepdims", 1)

    def compute(x: Any, axes: Any = None) -> Any:
        product = math.prod(x.reshape(-1).tolist())
        dtype = object if isinstance(product, torch.SymInt) else x.dtype
        return np.full((1,) * x.ndim if keep else (), product, dtype=dtype)

    return compute


def constant_of_shape(node: Node) -> Function:
    """A few equal numbers; more of them are a tensor's business."""
    value = node.attributes.get("value")
    filling = np.zeros(1, np.float32) if value is None else value.numpy()

    def compute(shape: Any) -> Any:
        few = shape.dtype != object and math.prod(integers(shape)) <= _FEW
        return np.full(integers(shape), filling.reshape(-1)[0], filling.dtype) if few else NotImplemented

    return compute


def range_(node: Node) -> Function:
    """A few numbers from start to limit."""

    def compute(start: Any, limit: Any, delta: Any) -> Any:
        if any(v.dtype == object for v in (start, limit, delta)) or abs(limit - start) > _FEW * abs(delta):
            return NotImplemented
        return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)

    return compute


#: The operators that may stay on the host.
OPERATORS: dict[str, Callable[[Node], Function]] = {
    "Shape": shape,
    "Size": size,
    "Identity": _elementwise(lambda x: x),
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_div),
    "Neg": _elementwise(lambda a: -a),
    "Equal": _elementwise(lambda a, b: (a == b).astype(np.bool_)),
    "Where": _elementwise(np.where),
    "Cast": cast,
    "Gather": gather,
    "Concat": concat,
    "Slice": slice_,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Reshape": reshape,
    "ReduceProd": reduce_prod,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Floor": _concrete(np.floor),
    "Ceil": _concrete(np.ceil),
    "Sqrt": _concrete(np.sqrt),
    "Max": _concrete(lambda *values: functools.reduce(np.maximum, values)),
    "Min": _concrete(lambda *values: functools.reduce(np.minimum, values)),
    "Less": _concrete(lambda a, b: np.asarray(a < b)),
    "Greater": _concrete(lambda a, b: np.asarray(a > b)),
}
