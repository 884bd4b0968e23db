"""Operators that compute element by element or along axes: arithmetic, activations, comparisons, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.models.onnx_operators.node import Function, Node, Refused, integers

Maker = Callable[[Node], Function]


def plain(function: Callable[..., Any]) -> Maker:
    """An operator without attributes."""
    return lambda node: function


def _div(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    return lambda node: lambda *values: reduce(function, values)


def _mean(node: Node) -> Function:
    return lambda *values: reduce(torch.add, values) / len(values)


def mod(node: Node) -> Function:
    """The sign of the divisor, or of the dividend with ``fmod``."""
    return torch.fmod if node.take("fmod", 0) else torch.remainder


def clip(node: Node) -> Function:
    """Bounds are attributes before opset 11. The calls are those that converters know how to fuse."""
    low, high = node.take("min"), node.take("max")

    def compute(x: Tensor, least: Any = None, most: Any = None) -> Tensor:
        low_, high_ = (
            fixed if given is None or not given.size else given.item() for fixed, given in ((low, least), (high, most))
        )
        if low_ is not None and high_ is not None and x.is_floating_point() and low_ <= high_:
            return F.hardtanh(x, low_, high_)
        if low_ == 0 and high_ is None:
            return torch.relu(x)
        return x if low_ is None and high_ is None else torch.clamp(x, low_, high_)

    return compute


def hard_sigmoid(node: Node) -> Function:
    """``max(0, min(1, alpha x + beta))``; torch knows one of them by name."""
    alpha, beta = node.take("alpha", 0.2), node.take("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


def gelu(node: Node) -> Function:
    """Exact or with tanh."""
    approximate = node.take("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def selu(node: Node) -> Function:
    """``gamma (x if x > 0 else alpha (e^x - 1))``."""
    alpha, gamma = node.take("alpha", 1.67326319217681884765625), node.take("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


def swish(node: Node) -> Function:
    """``x sigmoid(alpha x)``."""
    alpha = node.take("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


def prelu(node: Node) -> Function:
    """The slope broadcasts to the right of ``x``; torch's own takes one per channel."""
    slope = node.constants.get(1)
    if slope is not None and (slope.numel() == 1 or (slope.ndim >= 2 and slope.shape[0] == slope.numel())):
        rank, node.constants[1] = slope.ndim + 1, slope.reshape(-1)
        return lambda x, a: F.prelu(x, a) if a.numel() == 1 or x.ndim == rank else _prelu(x, a.reshape(slope.shape))
    return _prelu


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.relu(x) - slope * torch.relu(-x)


def _with(function: Callable[..., Any], key: str, default: float) -> Maker:
    def make(node: Node) -> Function:
        value = node.take(key, default)
        return lambda x: function(x, value)

    return make


def _softmax(function: Callable[..., Tensor]) -> Maker:
    """Along ``axis``; before opset 13 over all axes from ``axis`` on, as if they were one."""

    def make(node: Node) -> Function:
        axis = node.take("axis", -1 if node.opset >= 13 else 1)
        if node.opset >= 13:
            return lambda x: function(x, dim=axis)

        def flattened(x: Tensor) -> Tensor:
            cut = axis % x.ndim
            if cut == x.ndim - 1:
                return function(x, dim=cut)
            return function(x.flatten(cut), dim=-1).reshape(x.shape)

        return flattened

    return make


def cast(node: Node) -> Function:
    """To another element type; floats are cut towards zero."""
    dtype = node.dtype(node.take("to", 0))
    node.only("saturate", 1, 0)  # both mean the same for the types that are known here
    node.take("round_mode", "up")
    return lambda x: x.to(dtype)


def cast_like(node: Node) -> Function:
    """To the element type of the second input."""
    node.only("saturate", 1, 0)
    node.take("round_mode", "up")
    return lambda x, like: x.to(like.dtype)


def dropout(node: Node) -> Function:
    """Nothing, in inference."""
    for key in ("ratio", "seed", "is_test"):
        node.take(key)
    if len([name for name in node.outputs if name]) > 1:
        raise Refused("its second output (mask)")

    def compute(x: Tensor, ratio: Any = None, training: Any = None) -> Tensor:
        if training is not None and bool(training.item()):
            raise Refused("training_mode")
        return x

    return compute


def _pow(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def power(node: Node) -> Function:
    """An exponent that is one constant number goes to torch as a number, which has faster ways for 2 or 0.5."""
    exponent = node.constants.get(1)
    if exponent is not None and exponent.ndim == 0:
        number = node.constants.pop(1).item()
        return lambda x, _: torch.pow(x, number).to(x.dtype)
    return _pow


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Maker:
    """Axes are an attribute first and an input later (Sum from opset 13, the others from 18)."""

    def make(node: Node) -> Function:
        given, keep = node.take("axes"), bool(node.take("keepdims", 1))
        nothing = bool(node.take("noop_with_empty_axes", 0))

        def compute(x: Tensor, axes: Any = None) -> Tensor:
            chosen = list(given or ()) if axes is None else integers(axes)
            if nothing and not chosen:
                return x
            return function(x, [a % x.ndim for a in chosen] or list(range(x.ndim)), keep) if x.ndim else x

        return compute

    return make


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _arg(function: Callable[..., Tensor]) -> Maker:
    def make(node: Node) -> Function:
        axis, keep = node.take("axis", 0), bool(node.take("keepdims", 1))
        node.only("select_last_index", 0)
        return lambda x: function(x, dim=axis, keepdim=keep)

    return make


def top_k(node: Node) -> Function:
    """The largest or smallest ``k`` with their indices; ``k`` is an attribute before opset 10."""
    axis, largest = node.take("axis", -1), bool(node.take("largest", 1))
    ordered, fixed = bool(node.take("sorted", 1)), node.take("k")

    def compute(x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
        count = fixed if k is None else integers(k)[0]
        values, at = torch.topk(x, count, dim=axis, largest=largest, sorted=ordered)
        return values, at

    return compute


def cumulative_sum(node: Node) -> Function:
    """Along an axis that is an input; ``exclusive`` cannot be had without rounding twice."""
    node.only("exclusive", 0)
    turned = node.take("reverse", 0)

    def compute(x: Tensor, axis: Any) -> Tensor:
        along = int(axis.item())
        return x.flip(along).cumsum(along).flip(along) if turned else x.cumsum(along, dtype=x.dtype)

    return compute


def einsum(node: Node) -> Function:
    """Torch reads the same notation."""
    equation = node.take("equation", "")
    return lambda *values: torch.einsum(equation, *values)


#: Inputs that have to be known when the network is traced.
HOST_INPUTS = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "TopK": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}

_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Div": _div,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}

OPERATORS: dict[str, Maker] = {
    **{op: plain(function) for op, function in _PLAIN.items()},
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Cast": cast,
    "CastLike": cast_like,
    "Celu": _with(F.celu, "alpha", 1.0),
    "Clip": clip,
    "CumSum": cumulative_sum,
    "Dropout": dropout,
    "Einsum": einsum,
    "Elu": _with(F.elu, "alpha", 1.0),
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "LeakyRelu": _with(F.leaky_relu, "alpha", 0.01),
    "LogSoftmax": _softmax(F.log_softmax),
    "Max": _many(torch.maximum),
    "Mean": _mean,
    "Min": _many(torch.minimum),
    "Mod": mod,
    "PRelu": prelu,
    "Pow": power,
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceL2": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep, dtype=x.dtype)),
    "Selu": selu,
    "Softmax": _softmax(F.softmax),
    "Sum": _many(torch.add),
    "Swish": swish,
    "TopK": top_k,
}
