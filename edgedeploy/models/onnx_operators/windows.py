"""Convolutions and pooling: kernels that slide over the plane, and what is padded around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.models.onnx_operators.layout import padded
from edgedeploy.models.onnx_operators.node import Function, Node, Refused

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """How a kernel slides. ``None`` stands for the default, which depends on the rank of what it slides over."""

    auto_pad: str
    pads: Sequence[int] | None
    stride: Sequence[int] | None
    dilation: Sequence[int] | None

    @classmethod
    def of(cls, node: Node) -> Window:
        """Take the attributes that every sliding operator has.

        Raises:
            Refused: an ``auto_pad`` that ONNX does not have.
        """
        auto = node.take("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise Refused(f"auto_pad '{auto}'")
        return cls(auto, *(node.take(key) for key in ("pads", "strides", "dilations")))

    def steps(self, rank: int) -> tuple[list[int], list[int]]:
        """Stride and dilation per axis of the plane."""
        return list(self.stride or [1] * rank), list(self.dilation or [1] * rank)

    def around(self, plane: Sequence[Any], kernel: Sequence[int]) -> list[tuple[Any, Any]]:
        """What is padded (before, after) on each axis of a plane of this size."""
        rank = len(plane)
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        if self.auto_pad == "NOTSET":
            pads = self.pads or [0] * (2 * rank)
            return list(zip(pads[:rank], pads[rank:], strict=True))
        result = []
        for size, width, stride, dilation in zip(plane, kernel, *self.steps(rank), strict=True):
            total = (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size
            total = total if total > 0 else 0
            half = (total + (self.auto_pad == "SAME_LOWER")) // 2
            result.append((half, total - half))
        return result


def _even(around: Sequence[tuple[Any, Any]]) -> list[Any] | None:
    """One number per axis where as much is padded before as after, which torch's kernels do by themselves."""
    return [before for before, _ in around] if all(b == a >= 0 for b, a in around) else None


def _whole(
    plane: Sequence[Any], around: Sequence[tuple[Any, Any]], kernel: Sequence[int], window: Window
) -> list[tuple[Any, Any]]:
    """``around`` with as much after each axis as the last window needs, if that does not begin in it."""
    result = []
    for size, (before, after), width, s, d in zip(plane, around, kernel, *window.steps(len(kernel)), strict=True):
        span = (width - 1) * d + 1
        last = -(-(before + size + after - span) // s) * s
        last = last - s if last >= before + size else last
        result.append((before, last + span - before - size))
    return result


def _outside(x: Tensor, around: Sequence[tuple[Any, Any]], value: float = 0.0) -> Tensor:
    first = x.ndim - len(around)
    return padded(x, {first + i: both for i, both in enumerate(around)}, value=value)


def convolution(node: Node) -> Function:
    """With groups, dilations and padding of any kind, over one to three axes."""
    window, group = Window.of(node), node.take("group", 1)
    node.take("kernel_shape")  # the weight says it too

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        stride, dilation = window.steps(rank)
        around = window.around(x.shape[2:], weight.shape[2:])
        even = _even(around)
        if even is None:
            x, even = _outside(x, around), [0] * rank
        return _CONVOLUTIONS[rank](x, weight, bias, stride, even, dilation, group)

    return compute


def transposed_convolution(node: Node) -> Function:
    """The gradient of a convolution; what is padded is cut from the result."""
    window, group = Window.of(node), node.take("group", 1)
    more, wanted = node.take("output_padding"), node.take("output_shape")
    node.take("kernel_shape")

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        stride, dilation = window.steps(rank)
        extra = list(more or [0] * rank)
        whole = [
            s * (n - 1) + e + (k - 1) * d + 1
            for n, s, e, k, d in zip(x.shape[2:], stride, extra, weight.shape[2:], dilation, strict=True)
        ]
        around = _cut(window, whole, wanted, [n * s for n, s in zip(x.shape[2:], stride, strict=True)])
        even = _even(around)
        result = _TRANSPOSED[rank](x, weight, bias, stride, even or [0] * rank, extra, group, dilation)
        return result if even is not None else _outside(result, [(-before, -after) for before, after in around])

    return compute


def _cut(window: Window, whole: list[Any], wanted: Sequence[int] | None, same: list[Any]) -> list[tuple[Any, Any]]:
    """What a transposed convolution loses (before, after) on each axis, of a result of ``whole`` size."""
    if wanted is None and not window.auto_pad.startswith("SAME"):
        return window.around(whole, whole)
    result = []
    for size, target in zip(whole, (wanted or same)[-len(whole) :], strict=True):
        total = size - target
        if total < 0:
            raise Refused(f"output_shape {list(wanted or same)}, which is more than the {size} computed")
        before = total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2
        result.append((before, total - before))
    return result


def max_pool(node: Node) -> Function:
    """The largest of each window; what is padded never wins."""
    window, kernel, ceil = Window.of(node), list(node.take("kernel_shape", [1])), node.take("ceil_mode", 0)
    node.only("storage_order", 0)
    if len([name for name in node.outputs if name]) > 1:
        raise Refused("its second output (indices)")
    if window.auto_pad.startswith("SAME") and any(d != 1 for d in window.dilation or ()):
        raise Refused(f"auto_pad '{window.auto_pad}' with dilations, which ONNX Runtime pads as if there were none")

    def compute(x: Tensor) -> Tensor:
        stride, dilation = window.steps(len(kernel))
        around = window.around(x.shape[2:], kernel)
        even = _even(around)
        if even is None or any(2 * p > k for p, k in zip(even, kernel, strict=True)):
            lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
            around = _whole(x.shape[2:], around, kernel, window) if ceil else around
            return _MAX[len(kernel)](_outside(x, around, lowest), kernel, stride, 0, dilation)
        return _MAX[len(kernel)](x, kernel, stride, even, dilation, bool(ceil))

    return compute


def average_pool(node: Node) -> Function:
    """The mean of each window, with or without what is padded."""
    window, kernel, ceil = Window.of(node), list(node.take("kernel_shape", [1])), bool(node.take("ceil_mode", 0))
    count_padding = bool(node.take("count_include_pad", 0))
    stride, dilation = window.steps(len(kernel))
    pool = _AVERAGE[len(kernel)]
    if any(d != 1 for d in dilation):
        raise Refused(f"dilations {dilation}")

    def compute(x: Tensor) -> Tensor:
        around = window.around(x.shape[2:], kernel)
        even = _even(around)
        if even is not None and all(2 * p <= k for p, k in zip(even, kernel, strict=True)):
            return pool(x, kernel, stride, even, ceil, count_padding)
        if ceil:
            raise Refused(f"ceil_mode with pads {around}")
        mean = pool(_outside(x, around), kernel, stride)
        if count_padding:
            return mean
        return mean / pool(_outside(torch.ones_like(x[:1, :1]), around), kernel, stride)

    return compute


def _global(reduce: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Node], Function]:
    return lambda node: lambda x: reduce(x, list(range(2, x.ndim)))


OPERATORS: dict[str, Callable[[Node], Function]] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "MaxPool": max_pool,
}
