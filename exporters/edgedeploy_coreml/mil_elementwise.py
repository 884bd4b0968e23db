"""MIL operations that work element by element or reduce axes, as functions of torch tensors.

Parameters have the names of Apple's MIL operation set; what each means is written there. Floats are float32 here,
whatever the program declares: rounding to fp16 is the interpreter's work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit: exact, by tanh, or by a sigmoid."""
    match mode:
        case "EXACT":
            return F.gelu(x)
        case "TANH_APPROXIMATION":
            return F.gelu(x, approximate="tanh")
        case "SIGMOID_APPROXIMATION":
            return x * torch.sigmoid(1.702 * x)
    raise NotImplementedError(f"gelu(mode={mode})")


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """A slope per channel (axis 1) below zero."""
    return torch.where(x >= 0, x, x * alpha.reshape(-1, *[1] * (x.ndim - 2)))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha * log(1 + exp(beta * x))`` with both per channel (axis 1)."""
    shape = (-1, *[1] * (x.ndim - 2))
    return alpha.reshape(shape) * F.softplus(beta.reshape(shape) * x)


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int = 0
) -> Tensor:
    """Float to int8 or uint8: ``clip(round(input / scale) + zero_point)``, halves to even."""
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}[output_dtype]
    steps = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        steps = steps + _along(zero_point, input, axis)
    return steps.clamp(low, high)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 0) -> Tensor:
    """The float that an integer stands for: ``(input - zero_point) * scale``."""
    steps = input.float() if zero_point is None else input.float() - _along(zero_point, input, axis)
    return steps * _along(scale, input, axis)


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scalar as it is, a vector along ``axis`` of ``x``."""
    if values.ndim == 0:
        return values.float()
    return values.float().reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Sums of all values before, with or without the value itself."""
    turned = x.flip(axis) if reverse else x
    summed = turned.cumsum(axis)
    if exclusive:
        summed = summed - turned
    return summed.flip(axis) if reverse else summed


def _reduction(reduce: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Function:
    def reduced(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
        return reduce(x, tuple(range(x.ndim) if axes is None else axes), keep_dims)

    return reduced


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _argument(pick: Callable[..., Tensor]) -> Function:
    def picked(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
        return pick(x, axis, keepdim=keep_dims)

    return picked


def _unary(function: Callable[[Tensor], Tensor]) -> Function:
    def applied(x: Tensor) -> Tensor:
        return function(x)

    return applied


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def applied(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return applied


def _alpha(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def applied(x: Tensor, alpha: Tensor) -> Tensor:
        return function(x, alpha)

    return applied


def _alpha_beta(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Function:
    def applied(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return function(x, alpha, beta)

    return applied


def _epsilon(function: Callable[[Tensor], Tensor]) -> Function:
    def applied(x: Tensor, epsilon: Tensor) -> Tensor:
        return function(x + epsilon)

    return applied


UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.true_divide,
    "sub": torch.sub,
}

REDUCTIONS: Mapping[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": _product,
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}

OPS: Mapping[str, Function] = {
    **{name: _unary(function) for name, function in UNARY.items()},
    **{name: _binary(function) for name, function in BINARY.items()},
    **{name: _reduction(function) for name, function in REDUCTIONS.items()},
    "clamped_relu": _alpha_beta(lambda x, a, b: torch.minimum(torch.where(x >= 0, x, a * x), b)),
    "clip": _alpha_beta(lambda x, a, b: torch.minimum(torch.maximum(x, a), b)),
    "cumsum": cumsum,
    "dequantize": dequantize,
    "elu": _alpha(lambda x, a: torch.where(x > 0, x, a * torch.expm1(x))),
    "gelu": gelu,
    "inverse": _epsilon(torch.reciprocal),
    "leaky_relu": _alpha(lambda x, a: torch.where(x >= 0, x, a * x)),
    "linear_activation": _alpha_beta(lambda x, a, b: a * x + b),
    "log": _epsilon(torch.log),
    "prelu": prelu,
    "quantize": quantize,
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "rsqrt": _epsilon(torch.rsqrt),
    "scaled_tanh": _alpha_beta(lambda x, a, b: a * torch.tanh(b * x)),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "sigmoid_hard": _alpha_beta(lambda x, a, b: (a * x + b).clamp(0, 1)),
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "softplus_parametric": softplus_parametric,
    "threshold": _alpha(torch.maximum),
    "thresholded_relu": _alpha(lambda x, a: torch.where(x >= a, x, 0.0)),
}
