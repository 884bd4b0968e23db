"""Resize and Upsample: which of ONNX's ways to place pixels torch has, and how it calls them.

ONNX maps an output coordinate to an input coordinate in one of six ways and then rounds (nearest) or interpolates.
Torch has two of them for interpolation; rounding can always be written as picking rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.models.onnx_operators.node import Function, Node, Refused, integers

#: Output coordinate, scale, input size, output size -> input coordinate (the equations of ONNX' Resize).
_PLACES: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "half_pixel": lambda i, scale, size, out: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, scale, size, out: (i + 0.5) / scale - 0.5 if out > 1 else 0.0 * i,
    "half_pixel_symmetric": lambda i, scale, size, out: size / 2 * (1 - out / (scale * size)) + (i + 0.5) / scale - 0.5,
    "align_corners": lambda i, scale, size, out: i * (size - 1) / (out - 1) if out > 1 else 0.0 * i,
    "asymmetric": lambda i, scale, size, out: i / scale,
}
_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
_TORCH_MODES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}


@dataclass(frozen=True)
class Way:
    """How pixels are placed: mode, coordinate mode and rounding, by their ONNX names."""

    mode: str
    place: str
    rounding: str

    @classmethod
    def of(cls, node: Node) -> Way:
        """Take the attributes.

        Raises:
            Refused: something that torch cannot express.
        """
        place = node.take("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
        rounding = node.take("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        mode = node.take("mode", "nearest")
        node.only("antialias", 0)
        node.only("keep_aspect_ratio_policy", "stretch")
        node.take("extrapolation_value", 0.0)  # only tf_crop_and_resize looks outside
        outside, coefficient = node.take("exclude_outside", 0), node.take("cubic_coeff_a", -0.75)
        if place not in _PLACES:
            raise Refused(f"coordinate_transformation_mode '{place}'")
        if mode != "nearest" and place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
            raise Refused(f"coordinate_transformation_mode '{place}' in mode '{mode}'")
        if mode not in ("nearest", "linear", "cubic") or rounding not in _ROUNDINGS:
            raise Refused(f"mode '{mode}', nearest_mode '{rounding}'")
        if mode == "cubic" and (outside or abs(coefficient + 0.75) > 1e-6):
            raise Refused(f"cubic_coeff_a {coefficient:g}, exclude_outside {outside}")
        return cls(mode, place, rounding)

    def indices(self, size: int, out: int, scale: float) -> Any:
        """For mode nearest: which input pixel each output pixel is, in float32 because runtimes round ties in it."""
        at = _PLACES[self.place](np.arange(out, dtype=np.float32), np.float32(scale), np.float32(size), np.float32(out))
        return np.clip(_ROUNDINGS[self.rounding](np.asarray(at)), 0, size - 1).astype(np.int64)


def resize(node: Node) -> Function:
    """To ``sizes``, or by ``scales``; opset 10 has no region of interest, opset 18 has ``axes``."""
    way, chosen = Way.of(node), node.take("axes")

    def compute(x: Tensor, *inputs: Any) -> Tensor:
        _, scales, sizes = (*((None, *inputs) if node.opset < 11 else inputs), None, None)[:3]
        axes = range(x.ndim) if chosen is None else [a % x.ndim for a in chosen]
        factors: list[float | None] = [1.0] * x.ndim
        target = list(x.shape)
        if sizes is not None and np.size(sizes):
            for axis, out in zip(axes, integers(sizes), strict=True):
                same = isinstance(x.shape[axis], int) and out == x.shape[axis]
                factors[axis], target[axis] = 1.0 if same else None, out
        elif scales is not None:
            for axis, factor in zip(axes, scales.tolist(), strict=True):
                factors[axis], target[axis] = factor, _floor(x.shape[axis], factor)
        else:
            raise Refused("without sizes and scales")
        return _resized(x, way, factors, target)

    return compute


def upsample(node: Node) -> Function:
    """The forerunner of Resize (opset 7 to 9): always asymmetric and rounded down."""
    fixed = node.take("scales")
    way = Way.of(node)

    def compute(x: Tensor, scales: Any = None) -> Tensor:
        factors: list[float | None] = list(fixed) if scales is None else scales.tolist()
        target = [_floor(n, f) for n, f in zip(x.shape, factors, strict=True)]
        return _resized(x, way, factors, target)

    return compute


def _floor(size: Any, factor: float | None) -> Any:
    assert factor is not None
    if isinstance(size, int):
        return math.floor(size * float(np.float32(factor)))
    return size * int(factor) if float(factor).is_integer() else torch.sym_int(size * factor)  # type: ignore[no-untyped-call]


def _resized(x: Tensor, way: Way, factors: Sequence[float | None], target: Sequence[Any]) -> Tensor:
    """``factors`` are the scales asked for, ``None`` where a size was asked for; ``target`` are all sizes."""
    moved = [axis for axis, factor in enumerate(factors) if factor != 1.0]
    if not moved:
        return x
    if x.ndim in (3, 4, 5) and min(moved) >= 2:
        if way.mode == "nearest":
            if _is_torch_nearest(x, way, factors, target):
                return F.interpolate(x, **_call(factors, target), mode="nearest")
        elif (way.mode, x.ndim - 2) in _TORCH_MODES:
            single = way.place == "half_pixel" or all(isinstance(n, int) and n > 1 for n in target[2:])
            if way.place != "align_corners" and not single:
                raise Refused(f"coordinate_transformation_mode '{way.place}' to the size {target[2:]}")
            mode = _TORCH_MODES[way.mode, x.ndim - 2]
            return F.interpolate(x, **_call(factors, target), mode=mode, align_corners=way.place == "align_corners")
    if way.mode != "nearest":
        raise Refused(f"mode '{way.mode}' over the axes {moved} of {x.ndim}")
    for axis in moved:
        if not (isinstance(x.shape[axis], int) and isinstance(target[axis], int)):
            raise Refused(f"nearest_mode '{way.rounding}' with '{way.place}' on an axis of dynamic size")
        scale = factors[axis] or target[axis] / x.shape[axis]
        x = x.index_select(axis, torch.tensor(way.indices(x.shape[axis], target[axis], scale).tolist()))
    return x


def _call(factors: Sequence[float | None], target: Sequence[Any]) -> dict[str, Any]:
    """Scales go to torch as they are, because where they are no ratio of two sizes the pixels lie elsewhere."""
    planar = list(factors[2:])
    if any(factor is None for factor in planar):
        return {"size": list(target[2:])}
    return {"scale_factor": planar}


def _is_torch_nearest(x: Tensor, way: Way, factors: Sequence[float | None], target: Sequence[Any]) -> bool:
    """Whether torch's mode "nearest", which is asymmetric and rounds down, picks the same pixels on every axis."""
    torch_way = Way("nearest", "asymmetric", "floor")
    for size, factor, out in zip(x.shape[2:], factors[2:], target[2:], strict=True):
        if factor is not None and not isinstance(size, int) and float(factor).is_integer():
            size, out = 8, 8 * int(factor)  # the pattern repeats with every pixel
        if not (isinstance(size, int) and isinstance(out, int)):
            return False
        scale = factor or out / size
        if not np.array_equal(way.indices(size, out, scale), torch_way.indices(size, out, scale)):
            return False
    return True


HOST_INPUTS = {"Resize": (1, 2, 3), "Upsample": (1,)}

OPERATORS: dict[str, Callable[[Node], Function]] = {"Resize": resize, "Upsample": upsample}
