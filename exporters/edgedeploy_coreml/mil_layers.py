"""MIL operations with weights or windows: convolution, pooling, normalisation, resizing, products of matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy_coreml.mil_elementwise import Function

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] = (),
    pad_type: str = "valid",
    pad: Sequence[int] = (),
    dilations: Sequence[int] = (),
    groups: int = 1,
) -> Tensor:
    """Convolution over 1 to 3 spatial dimensions."""
    rank = x.ndim - 2
    strides, dilations = list(strides) or [1] * rank, list(dilations) or [1] * rank
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    before, after = padding(x.shape[2:], extent, strides, pad_type, pad)
    if before == after:
        return _CONV[rank](x, weight, bias, strides, before, dilations, groups)
    return _CONV[rank](padded(x, before, after, 0.0), weight, bias, strides, 0, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Sequence[int] = (),
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: the whole result, cropped by ``pad`` and to ``output_shape``."""
    rank = x.ndim - 2
    strides, dilations = list(strides) or [1] * rank, list(dilations) or [1] * rank
    y = _CONV_TRANSPOSE[rank](x, weight, None, strides, 0, 0, groups, dilations)
    whole = y.shape[2:]
    if pad_type == "same":
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        before = [(w - n) // 2 for w, n in zip(whole, wanted, strict=True)]
    else:
        crop = list(pad) if pad_type == "custom" else [0] * 2 * rank
        before = crop[::2]
        wanted = [w - b - a for w, b, a in zip(whole, crop[::2], crop[1::2], strict=True)]
    if output_shape is not None:
        wanted = list(output_shape[2:])
    for i, (start, size) in enumerate(zip(before, wanted, strict=True)):
        missing = max(0, start + size - whole[i])
        if missing:  # an output size larger than what the kernel reaches: zeros, and the bias
            y = F.pad(y, [0, 0] * (rank - 1 - i) + [0, missing])
        y = y.narrow(2 + i, start, size)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def padding(
    size: Sequence[int], extent: Sequence[int], strides: Sequence[int], pad_type: str, pad: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Elements added before and after each spatial dimension."""
    if pad_type == "valid":
        return [0] * len(size), [0] * len(size)
    if pad_type == "custom":
        return list(pad[::2]), list(pad[1::2])
    total = [max(0, (-(-n // s) - 1) * s + e - n) for n, e, s in zip(size, extent, strides, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    match pad_type:
        case "same":
            return small, large
        case "same_lower":
            return large, small
    raise NotImplementedError(f"padding of type {pad_type}")


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float) -> Tensor:
    """``x`` with its last dimensions extended by a value."""
    pairs = zip(reversed(before), reversed(after), strict=True)
    return F.pad(x, [n for pair in pairs for n in pair], value=value)


def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] = (),
    pad: Sequence[int] = (),
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """Mean over windows."""
    rank, strides = x.ndim - 2, list(strides) or [1] * (x.ndim - 2)
    before, after = padding(x.shape[2:], kernel_sizes, strides, pad_type, pad)
    pool, kernel = _AVG_POOL[rank], list(kernel_sizes)
    if before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil_mode, not exclude_padding_from_average)
    if ceil_mode:
        raise NotImplementedError("avg_pool(ceil_mode with uneven padding)")
    mean = pool(padded(x, before, after, 0.0), kernel, strides)
    if not exclude_padding_from_average:
        return mean
    return mean / pool(padded(torch.ones_like(x), before, after, 0.0), kernel, strides)


def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] = (),
    pad: Sequence[int] = (),
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over windows; padding never wins."""
    rank, strides = x.ndim - 2, list(strides) or [1] * (x.ndim - 2)
    before, after = padding(x.shape[2:], kernel_sizes, strides, pad_type, pad)
    return _MAX_POOL[rank](padded(x, before, after, -torch.inf), list(kernel_sizes), strides, ceil_mode=ceil_mode)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Normalisation per channel with stored statistics."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=_number(epsilon, 1e-5))


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | None = None
) -> Tensor:
    """Normalisation per sample and channel."""
    return F.instance_norm(x, weight=gamma, bias=beta, eps=_number(epsilon, 1e-5))


def layer_norm(
    x: Tensor,
    axes: Sequence[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Normalisation over ``axes``; gamma and beta have the shape of these axes."""
    over = [a % x.ndim for a in (range(x.ndim) if axes is None else axes)]
    mean = x.mean(over, keepdim=True)
    variance = (x - mean).square().mean(over, keepdim=True)
    y = (x - mean) / torch.sqrt(variance + _number(epsilon, 1e-5))
    shape = [x.shape[i] if i in over else 1 for i in range(x.ndim)]
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def l2_norm(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """Division by the root of the sum of squares of the last three dimensions."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + _number(epsilon, 1e-6))


def _number(value: Tensor | None, default: float) -> float:
    return default if value is None else float(value)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Product of matrices; batch dimensions are broadcast."""
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    return x @ (y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y)


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention with scale ``1 / sqrt(size of the embedding)``; a boolean mask says what may be looked at."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """Sum of products."""
    return torch.einsum(equation, *values)


# Resizing


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Nearest neighbour by factors."""
    return _interpolate(x, _scaled(x, scale_factor_height, scale_factor_width), "nearest")


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest neighbour to a size."""
    return _interpolate(x, (target_size_height, target_size_width), "nearest")


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear interpolation by factors."""
    if half_pixel_centers is not None and half_pixel_centers == align_corners:
        raise NotImplementedError(f"upsample_bilinear(align_corners and half_pixel_centers both {align_corners})")
    return _interpolate(x, _scaled(x, scale_factor_height, scale_factor_width), "bilinear", align_corners)


def resize_bilinear(x: Tensor, target_size_height: int, target_size_width: int, sampling_mode: str) -> Tensor:
    """Linear interpolation to a size."""
    size = (target_size_height, target_size_width)
    match sampling_mode:
        case "STRICT_ALIGN_CORNERS":
            return _interpolate(x, size, "bilinear", True)
        case "ALIGN_CORNERS" if min(size) > 1:
            return _interpolate(x, size, "bilinear", True)
        case "UNALIGN_CORNERS":
            return _interpolate(x, size, "bilinear", False)
    raise NotImplementedError(f"resize_bilinear(sampling_mode={sampling_mode})")


def resize(
    x: Tensor,
    shape: Sequence[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resizing of the last two dimensions to a shape; 0 keeps a dimension."""
    if resized_dims != 2:
        raise NotImplementedError(f"resize(resized_dims={resized_dims})")
    height, width = (int(n) or int(old) for n, old in zip(shape[-2:], x.shape[-2:], strict=True))
    if interpolation_mode == "LINEAR":
        return resize_bilinear(x, height, width, sampling_mode)
    return resize_nearest_neighbor(x, height, width)


def _scaled(x: Tensor, height: float, width: float) -> tuple[int, int]:
    return int(x.shape[-2] * height), int(x.shape[-1] * width)


def _interpolate(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool | None = None) -> Tensor:
    flat = x.reshape(1, -1, *x.shape[-2:])
    return F.interpolate(flat, size, mode=mode, align_corners=align_corners).reshape(*x.shape[:-2], *size)


OPS: Mapping[str, Function] = {
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "max_pool": max_pool,
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "scaled_dot_product_attention": attention,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
