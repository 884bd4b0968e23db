"""Operators with weights or scales: matrix products, normalisation, quantisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.models.onnx_operators.node import Function, Node, Refused


def matmul(node: Node) -> Function:
    """A constant matrix on the right is a linear layer, and is written as one: converters look for those."""
    weight = node.constants.get(1)
    if weight is None or weight.ndim != 2 or 0 in node.constants:
        return torch.matmul
    node.constants[1] = weight.t().contiguous()
    return F.linear


def gemm(node: Node) -> Function:
    """``alpha A' B' + beta C``; a linear layer where B is constant."""
    alpha, beta = node.take("alpha", 1.0), node.take("beta", 1.0)
    turn_a, turn_b = node.take("transA", 0), node.take("transB", 0)
    weight, bias = node.constants.get(1), node.constants.get(2)
    constant_bias = not node.has(2) or (bias is not None and bias.ndim <= 1)
    if weight is not None and 0 not in node.constants and constant_bias and not turn_a and weight.is_floating_point():
        weight = weight if turn_b else weight.t().contiguous()
        node.constants[1] = weight if alpha == 1.0 else weight * alpha
        if bias is not None:
            node.constants[2] = (bias if beta == 1.0 else bias * beta).expand(weight.shape[0]).contiguous()
        return F.linear

    def compute(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = torch.matmul(a.t() if turn_a else a, b.t() if turn_b else b)
        product = product if alpha == 1.0 else product * alpha
        return product if c is None else product + (c if beta == 1.0 else c * beta)

    return compute


def _one_output(node: Node) -> None:
    if len([name for name in node.outputs if name]) > 1:
        raise Refused("more than its first output")


def batch_normalization(node: Node) -> Function:
    """With the statistics of the training."""
    epsilon = node.take("epsilon", 1e-5)
    node.take("momentum", 0.9)
    node.only("training_mode", 0)
    node.only("spatial", 1)
    _one_output(node)
    return lambda x, weight, bias, mean, var: F.batch_norm(x, mean, var, weight, bias, False, 0.0, epsilon)


def instance_normalization(node: Node) -> Function:
    """Each channel of each sample by itself."""
    epsilon = node.take("epsilon", 1e-5)
    return lambda x, weight, bias: F.instance_norm(x, weight=weight, bias=bias, eps=epsilon)


def group_normalization(node: Node) -> Function:
    """Scale and bias are per channel since opset 21; before, per group, and the operator was withdrawn for it."""
    epsilon, groups = node.take("epsilon", 1e-5), node.take("num_groups", 1)
    node.only("stash_type", 1)
    if node.opset < 21:
        raise Refused(f"opset {node.opset} (with scales per group)")
    return lambda x, weight, bias: F.group_norm(x, groups, weight, bias, epsilon)


def layer_normalization(node: Node) -> Function:
    """Over all axes from ``axis`` on."""
    axis, epsilon = node.take("axis", -1), node.take("epsilon", 1e-5)
    node.only("stash_type", 1)
    _one_output(node)

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = list(x.shape[axis:])
        if list(weight.shape) == shape and (bias is None or list(bias.shape) == shape):
            return F.layer_norm(x, shape, weight, bias, epsilon)
        scaled = F.layer_norm(x, shape, eps=epsilon) * weight
        return scaled if bias is None else scaled + bias

    return compute


def rms_normalization(node: Node) -> Function:
    """As layer normalisation, without a mean (opset 23)."""
    axis, epsilon = node.take("axis", -1), node.take("epsilon", 1e-5)
    node.only("stash_type", 1)
    return lambda x, weight: F.rms_norm(x, list(x.shape[axis:]), eps=epsilon) * weight


def local_response_normalization(node: Node) -> Function:
    """Across channels; torch places windows of an even size one channel apart from ONNX."""
    alpha, beta, bias = node.take("alpha", 1e-4), node.take("beta", 0.75), node.take("bias", 1.0)
    size = node.take("size", 1)
    if size % 2 == 0:
        raise Refused(f"size {size}")
    return lambda x: F.local_response_norm(x, size, alpha, beta, bias)


_LIMITS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}
#: Torch can hardly compute with uint16, so such values are held in a wider type.
_HELD = {torch.uint16: torch.int32}


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    """Per-channel values in a shape that broadcasts against a tensor of this rank."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.numel()
    return values.reshape(shape)


def _quantization(node: Node) -> int:
    """The axis of the channels; what only newer types have is refused."""
    axis = node.take("axis", 1)
    node.only("block_size", 0)
    node.only("saturate", 1)
    node.only("precision", 0)
    scale = node.constants.get(1)
    if scale is None or scale.ndim > 1:
        raise Refused("a scale that is computed, or of rank 2")
    return int(axis)


def quantize_linear(node: Node) -> Function:
    """``saturate(round(x / scale) + zero point)``, halves to even."""
    axis, wanted = _quantization(node), node.take("output_dtype", 0)
    zero = node.constants.get(2)
    dtype = node.dtype(wanted) if wanted else torch.uint8 if zero is None else zero.dtype
    if dtype not in _LIMITS:
        raise Refused(f"the type {str(dtype).removeprefix('torch.')}")
    if zero is not None:
        node.constants[2] = zero.to(torch.float32)
    low, high = _LIMITS[dtype]

    def compute(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        steps = torch.round(x / _along(scale, axis, x.ndim))
        steps = steps if zero is None else steps + _along(zero, axis, x.ndim)
        return torch.clamp(steps, low, high).to(_HELD.get(dtype, dtype))

    return compute


def dequantize_linear(node: Node) -> Function:
    """``(q - zero point) scale``."""
    axis = _quantization(node)
    node.only("output_dtype", 0, 1)
    if 2 in node.constants:
        node.constants[2] = node.constants[2].to(torch.float32)

    def compute(q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Any:
        steps = q.to(scale.dtype)
        steps = steps if zero is None else steps - _along(zero, axis, q.ndim).to(scale.dtype)
        return steps * _along(scale, axis, q.ndim)

    return compute


#: What constant inputs are called in the module that holds them, where "constant" would say too little.
ROLES: dict[str, dict[int, str]] = {
    **{op: {1: "weight", 2: "bias"} for op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization")},
    **{op: {1: "weight", 2: "bias"} for op in ("InstanceNormalization", "GroupNormalization")},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "PRelu": {1: "weight"},
    "RMSNormalization": {1: "weight"},
    "QuantizeLinear": {1: "scale", 2: "zero_point"},
    "DequantizeLinear": {1: "scale", 2: "zero_point"},
}

OPERATORS: dict[str, Callable[[Node], Function]] = {
    "BatchNormalization": batch_normalization,
    "DequantizeLinear": dequantize_linear,
    "Gemm": gemm,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "MatMul": matmul,
    "QuantizeLinear": quantize_linear,
    "RMSNormalization": rms_normalization,
}
