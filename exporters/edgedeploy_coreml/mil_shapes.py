"""MIL operations that move values: reshaping, slicing, joining, gathering and scattering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy_coreml.mil_elementwise import Function

_SCATTER = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Another shape; 0 keeps a dimension, -1 takes what is left."""
    same = len(shape) == x.ndim
    return x.reshape([x.shape[i] if n == 0 and same else n for i, n in enumerate(shape)])


def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """New dimensions of size 1 where they are in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def slices(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None,
    begin_mask: Sequence[bool] | None,
    end_mask: Sequence[bool] | None,
    squeeze_mask: Sequence[bool] | None,
) -> list[Tensor]:
    """The indices that a slice takes along each dimension; masks open an end, or take the single element at begin."""
    rank = x.ndim
    opened = [list(mask) if mask is not None else [False] * rank for mask in (begin_mask, end_mask, squeeze_mask)]
    taken = []
    for i, size in enumerate(x.shape):
        if opened[2][i]:
            taken.append(torch.tensor([begin[i] % size]))
            continue
        piece = slice(None if opened[0][i] else begin[i], None if opened[1][i] else end[i], stride[i] if stride else 1)
        taken.append(torch.tensor(range(size)[piece], dtype=torch.int64))
    return taken


def slice_by_index(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Part of a tensor, from begin up to end."""
    for i, taken in enumerate(slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        if len(taken) != x.shape[i] or (len(taken) > 1 and taken[0] != 0):
            x = x.index_select(i, taken)
    gone = [i for i, mask in enumerate(squeeze_mask or ()) if mask]
    return x.squeeze(gone) if gone else x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """``x`` with a part of it replaced."""
    taken = slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x.clone()
    y[torch.meshgrid(*taken, indexing="ij")] = update.reshape([len(t) for t in taken])
    return y


def slice_by_size(x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """Part of a tensor, so many elements from begin; -1 takes all that follow."""
    for i, (start, count) in enumerate(zip(begin, size, strict=True)):
        start %= max(1, x.shape[i])
        x = x.narrow(i, start, x.shape[i] - start if count == -1 else count)
    return x


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """Without so many rows at top and bottom and columns at left and right."""
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Tensors joined along an axis, one after the other or taking turns."""
    if not interleave:
        return torch.cat(list(values), axis)
    axis %= values[0].ndim
    return torch.stack(list(values), axis + 1).flatten(axis, axis + 1)


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """A tensor cut along an axis."""
    pieces = list(split_sizes) if split_sizes is not None else [x.shape[axis] // (num_splits or 1)] * (num_splits or 1)
    return torch.split(x, pieces, axis)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    """The last dimensions made longer; ``pad`` has before and after for each of them."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    while pairs and not any(pairs[0]):
        pairs = pairs[1:]
    flat = [n for pair in reversed(pairs) for n in pair]
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if constant_val is None else constant_val.item())
    kept = max(0, x.ndim - len(pairs))
    whole = x.reshape(1, -1, *x.shape[kept:])
    return F.pad(whole, flat, mode=mode).reshape(
        *x.shape[:kept], *(n + sum(p) for n, p in zip(x.shape[kept:], pairs, strict=True))
    )


def fill(shape: Sequence[int], value: Tensor | None = None) -> Tensor:
    """One value everywhere."""
    return torch.zeros(()).expand(list(shape)) if value is None else value.expand(list(shape))


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """One value everywhere, in the shape of another tensor."""
    return fill(ref_tensor.shape, value)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """A new axis with one value at the index and another one elsewhere."""
    hot = F.one_hot(indices.long(), one_hot_vector_size).movedim(-1, axis).bool()
    on, off = (torch.tensor(d) if v is None else v for v, d in ((on_value, 1), (off_value, 0)))
    return torch.where(hot, on, off)


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zeros outside a band around the diagonal; a negative width keeps that side whole."""
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The largest (or, ascending, smallest) values along an axis, and where they are."""
    found = x.topk(k, axis, largest=not ascending)
    return (found.values, found.indices) if return_indices else (found.values,)


def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of ``x`` along an axis, in the shape of the indices."""
    axis %= x.ndim
    index = _within(indices, x.shape[axis])
    if not batch_dims:
        return x.index_select(axis, index.reshape(-1)).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    rows = x.reshape(-1, *x.shape[batch_dims:])
    picked = [
        gather(row, i, axis - batch_dims)
        for row, i in zip(rows, index.reshape(-1, *index.shape[batch_dims:]), strict=True)
    ]
    return torch.stack(picked).reshape(*x.shape[:batch_dims], *picked[0].shape)


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """One value per index, everything but the axis staying in place."""
    return x.gather(axis, _within(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of ``x`` at the coordinates in the last dimension of the indices."""
    if batch_dims:
        raise NotImplementedError(f"gather_nd(batch_dims={batch_dims})")
    return x[tuple(_within(column, x.shape[i]) for i, column in enumerate(indices.unbind(-1)))]


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``data`` with slices along an axis replaced or combined."""
    index = _within(indices, data.shape[axis])
    if mode == "update":
        return data.index_copy(axis, index, updates)
    return (
        data.index_reduce(axis, index, updates, _SCATTER[mode])
        if mode != "add"
        else data.index_add(axis, index, updates)
    )


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """``data`` with one value per index replaced or combined."""
    index = _within(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, _SCATTER[mode])


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """``data`` with the slices at coordinates replaced or added to."""
    if mode not in ("update", "add"):
        raise NotImplementedError(f"scatter_nd(mode={mode})")
    index = tuple(_within(column, data.shape[i]) for i, column in enumerate(indices.unbind(-1)))
    return data.index_put(index, updates, accumulate=mode == "add")


def _within(indices: Tensor, size: int) -> Tensor:
    """Indices as torch takes them; negative ones count from the end."""
    index = indices.long()
    return torch.where(index < 0, index + size, index)


OPS: Mapping[str, Function] = {
    "argsort": lambda x, axis=-1, ascending=False: x.argsort(axis, descending=not ascending, stable=True),
    "band_part": band_part,
    "concat": concat,
    "crop": crop,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": lambda x, axis=1: x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1),
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "non_zero": lambda x: x.nonzero(),
    "one_hot": one_hot,
    "pad": pad,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, upscale_factor),
    "pixel_unshuffle": lambda x, downscale_factor: F.pixel_unshuffle(x, downscale_factor),
    "range_1d": lambda start, end, step: torch.arange(start, end, step),
    "reshape": reshape,
    "reverse": lambda x, axes=None: x.flip(tuple(range(x.ndim) if axes is None else axes)),
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
    "shape": lambda x: torch.tensor(x.shape),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "split": split,
    "squeeze": squeeze,
    "stack": lambda values, axis: torch.stack(list(values), axis),
    "tile": lambda x, reps: x.tile(reps),
    "topk": topk,
    "transpose": lambda x, perm: x.permute(perm),
}

#: Operations of this module and others that only move values: what was rounded before stays rounded.
MOVES = frozenset(OPS) - {"range_1d", "fill", "fill_like", "one_hot", "scatter", "scatter_along_axis", "scatter_nd"} | {
    "identity",
    "max_pool",
    "relu",
    "upsample_nearest_neighbor",
    "resize_nearest_neighbor",
}
