"""Operators that move values about and compute nothing: reshape, slice, gather, pad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.models.onnx_operators.node import Function, Node, Real, Refused, as_tensor, integers


def reshape(node: Node) -> Function:
    """0 keeps a dimension unless ``allowzero``, -1 takes what is left."""
    allow_zero = node.take("allowzero", 0)

    def compute(x: Tensor, shape: Any) -> Tensor:
        dims = integers(shape)
        return x.reshape(dims if allow_zero else [x.shape[i] if d == 0 else d for i, d in enumerate(dims)])

    return compute


def flatten(node: Node) -> Function:
    """To rank 2, cut at ``axis``."""
    axis = node.take("axis", 1)

    def compute(x: Tensor) -> Tensor:
        cut = axis + x.ndim if axis < 0 else axis
        if cut == 1 and x.ndim > 1:
            return x.flatten(1)
        return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))

    return compute


def squeeze(node: Node) -> Function:
    """Axes are an attribute before opset 13; without any, every dimension of size 1 goes."""
    given = node.take("axes")

    def compute(x: Tensor, axes: Any = None) -> Tensor:
        chosen = given if axes is None else integers(axes)
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return compute


def unsqueeze(node: Node) -> Function:
    """Axes count in the result, and are an attribute before opset 13."""
    given = node.take("axes")

    def compute(x: Tensor, axes: Any = None) -> Tensor:
        chosen = given if axes is None else integers(axes)
        rank = x.ndim + len(chosen)
        for axis in sorted(a + rank if a < 0 else a for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return compute


def transpose(node: Node) -> Function:
    """The axes reversed where ``perm`` is left out."""
    perm = node.take("perm")
    return lambda x: x.permute(list(range(x.ndim))[::-1] if perm is None else list(perm))


def expand(node: Node) -> Function:
    """Broadcast in both directions, as ``x * ones(shape)`` would."""

    def compute(x: Tensor, shape: Any) -> Tensor:
        wanted = integers(shape)
        rank = max(len(wanted), x.ndim)
        own, wanted = [1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(wanted)) + wanted
        return x.expand([a if isinstance(b, int) and b == 1 else b for a, b in zip(own, wanted, strict=True)])

    return compute


def concat(node: Node) -> Function:
    """Joined along ``axis``."""
    axis = node.take("axis", 1)
    return lambda *values: torch.cat(values, dim=axis)


def split(node: Node) -> Function:
    """Sizes are an attribute before opset 13; without any, equal parts, the last one smaller (``num_outputs``, 18)."""
    axis, given = node.take("axis", 0), node.take("split")
    parts = node.take("num_outputs", len(node.outputs))

    def compute(x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
        wanted = given if sizes is None else integers(sizes)
        each = -(-x.shape[axis] // parts)
        return torch.split(x, each if wanted is None else list(wanted), dim=axis)

    return compute


def slice_(node: Node) -> Function:
    """Starts, ends and axes are attributes before opset 10, inputs with steps after."""
    fixed = [node.take(key) for key in ("starts", "ends", "axes")]

    def compute(x: Tensor, *inputs: Any) -> Tensor:
        given = fixed if fixed[0] is not None else [None if v is None else integers(v) for v in inputs]
        starts, ends, axes, steps = (*given, None, None)[:4]
        assert starts is not None
        assert ends is not None
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            x = _cut(x, axis, start, end, step)
        return x

    return compute


#: Ends that mean "as far as it goes" whatever the direction; ONNX Runtime reads them so.
_NO_END = (2**31 - 1, 2**63 - 1)


def _cut(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step < 0:  # torch has no such view: turn the axis round and count from the other end
        size = int(x.shape[axis])
        end = None if end in _NO_END else end
        chosen = range(size)[slice(max(start, -size), end, step)]  # ONNX clamps a start before the beginning to it
        first = size - 1 - chosen[0] if len(chosen) else 0
        last = size - 1 - chosen[-1] if len(chosen) else -1
        x, start, end, step = x.flip(axis), first, last + 1, -step
    start, end = (max(n, -(2**62)) if isinstance(n, int) else n for n in (start, end))  # torch warns at INT64_MIN
    where = [slice(None)] * (axis % x.ndim) + [slice(start, end, step)]
    return x[tuple(where)]


def gather(node: Node) -> Function:
    """Whole slices along ``axis``; negative indices count from the end."""
    axis = node.take("axis", 0)
    fixed = node.constants.get(1)
    if fixed is not None and fixed.ndim == 0:
        index = int(node.constants.pop(1))
        return lambda x, _: as_tensor(x).select(axis, index)
    wraps = fixed is None or bool((fixed < 0).any())

    def compute(x: Tensor, indices: Any) -> Tensor:
        x = as_tensor(x)
        if isinstance(indices, np.ndarray) and indices.ndim == 0:
            return x.select(axis, integers(indices)[0])
        at = as_tensor(indices)
        at = torch.where(at < 0, at + x.shape[axis], at) if wraps else at
        if x.ndim == 2 and axis == 0:
            return F.embedding(at, x)
        cut = axis % x.ndim
        chosen = x.index_select(cut, at.reshape(-1))
        return chosen if at.ndim == 1 else chosen.reshape([*x.shape[:cut], *at.shape, *x.shape[cut + 1 :]])

    return compute


def gather_elements(node: Node) -> Function:
    """One element per index, as ``torch.gather``."""
    axis = node.take("axis", 0)
    return lambda x, at: torch.gather(x, axis, torch.where(at < 0, at + x.shape[axis], at).to(torch.int64))


def gather_nd(node: Node) -> Function:
    """The last axis of the indices addresses the leading axes of the data."""
    node.only("batch_dims", 0)
    return lambda x, at: x[tuple(at.unbind(-1))]


def scatter_nd(node: Node) -> Function:
    """A copy with some entries replaced; how doubled indices add up cannot be said in the same way."""
    node.only("reduction", "none")
    return lambda x, at, updates: x.index_put(tuple(at.unbind(-1)), updates)


def tile(node: Node) -> Function:
    """Repeated along each axis."""
    return lambda x, repeats: x.repeat(integers(repeats))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(node: Node) -> Function:
    """Pads are an attribute before opset 11, and since 18 there may be ``axes``. Negative ones cut."""
    mode = node.take("mode", "constant")
    if mode not in _PAD_MODES:
        raise Refused(f"mode '{mode}'")
    fixed, fixed_value = node.take("pads"), node.take("value", 0.0)

    def compute(x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
        given = list(fixed) if pads is None else integers(pads)
        chosen = range(x.ndim) if axes is None else integers(axes)
        both = {a % x.ndim: (given[i], given[i + len(given) // 2]) for i, a in enumerate(chosen)}
        return padded(x, both, _PAD_MODES[mode], fixed_value if value is None else value.item())

    return compute


def padded(x: Tensor, pads: dict[int, tuple[Any, Any]], mode: str = "constant", value: float = 0.0) -> Tensor:
    """``x`` with (before, after) entries added per axis; torch counts axes from the last and names no leading ones."""
    wanted = [axis for axis, both in pads.items() if any(not isinstance(n, int) or n != 0 for n in both)]
    if not wanted:
        return x
    reach = x.ndim - min(wanted)
    flat = [n for axis in range(x.ndim - 1, x.ndim - 1 - reach, -1) for n in pads.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=value)
    if reach > 3:
        raise Refused(f"mode '{mode}' over {reach} axes")
    if x.ndim in (reach + 1, reach + 2):
        return F.pad(x, flat, mode=mode)
    lead = x.shape[
        : x.ndim - reach
    ]  # torch wants a batch axis, or a batch and a channel axis, before those that it pads
    result = F.pad(x.reshape(math.prod(lead), *x.shape[x.ndim - reach :]), flat, mode=mode)
    return result.reshape([*lead, *result.shape[1:]])


def _blocks(x: Tensor, dims: Sequence[int], order: Sequence[int], shape: Sequence[Any]) -> Tensor:
    return x.reshape(list(dims)).permute(list(order)).reshape(list(shape))


def depth_to_space(node: Node) -> Function:
    """Blocks of channels to the plane; ``CRD`` is ``torch.pixel_shuffle``."""
    b, mode = node.take("blocksize", 1), node.take("mode", "DCR")
    if mode == "CRD":
        return lambda x: F.pixel_shuffle(x, b)

    def compute(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return _blocks(x, (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2), (n, c // (b * b), h * b, w * b))

    return compute


def space_to_depth(node: Node) -> Function:
    """Blocks of the plane to channels."""
    b = node.take("blocksize", 1)

    def compute(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return _blocks(x, (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4), (n, c * b * b, h // b, w // b))

    return compute


def constant_of_shape(node: Node) -> Function:
    """Filled with one ``value``."""
    value = node.take("value")
    filling = torch.zeros(1) if value is None else value
    return lambda shape: torch.full(integers(shape), filling.reshape(-1)[0].item(), dtype=filling.dtype)


def range_(node: Node) -> Function:
    """Numbers from start to limit."""

    def compute(start: Any, limit: Any, delta: Any) -> Tensor:
        dtype = {"f": torch.float32, "d": torch.float64, "i": torch.int32, "h": torch.int16}.get(start.dtype.char)
        numbers: list[Any] = [v.item() for v in (start, limit, delta)]
        bounds: list[Any] = [n.value if isinstance(n, Real) else n for n in numbers]
        return torch.arange(*bounds, dtype=dtype or torch.int64)

    return compute


def trilu(node: Node) -> Function:
    """The upper or lower triangle, from diagonal ``k`` on."""
    cut = torch.triu if node.take("upper", 1) else torch.tril
    return lambda x, k=None: cut(x, 0 if k is None else int(k.item()))


#: Inputs that have to be known when the network is traced.
HOST_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}

OPERATORS: dict[str, Callable[[Node], Function]] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "ScatterND": scatter_nd,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
