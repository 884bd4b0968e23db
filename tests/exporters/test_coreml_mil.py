"""The reference interpreter of Core ML programs, operation by operation, against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

import torch
from edgedeploy_coreml import mil_shapes
from edgedeploy_coreml.mil import ATTRIBUTES, OPS, Interpreter
from edgedeploy_coreml.vendor import coremltools, quiet
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from edgedeploy.errors import RunFailed, Unavailable
from edgedeploy.tensors import Array

F: Any = functional  # untyped: its overloads do not take unpacked lists
ct = coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def program(build: Callable[..., Any], *arrays: Array, dtype: str = "fp32") -> Any:
    """A program of one or two inputs, named as the arguments of ``build``."""
    kinds = {np.dtype(np.float32): getattr(types, dtype), np.dtype(np.int32): types.int32, np.dtype(bool): types.bool}
    specs = [mb.TensorSpec(shape=a.shape, dtype=kinds[a.dtype]) for a in arrays]
    with quiet():
        return mb.program(input_specs=specs, opset_version=ct.target.iOS18)(build)


def run(build: Callable[..., Any], *arrays: Array, dtype: str = "fp32", arithmetic: Any = "program") -> list[Array]:
    interpreter = Interpreter(program(build, *arrays, dtype=dtype), arithmetic)
    found = interpreter.run(dict(zip(interpreter.inputs, arrays, strict=True)))
    return [found[name] for name in interpreter.outputs]


def numbers(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def tensors(*arrays: Array) -> list[Any]:
    return [torch.from_numpy(a.copy()) for a in arrays]


def close(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=tolerance)


IMAGE, ROWS = numbers(1, 4, 9, 8), numbers(2, 3, 5)
KERNEL, DEEP = numbers(6, 4, 3, 3, seed=1), numbers(4, 1, 3, 3, seed=2)
UP = numbers(4, 3, 3, 3, seed=3)
BIAS = numbers(6, seed=4)

LAYERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "conv valid": (lambda x: mb.conv(x=x, weight=KERNEL, bias=BIAS), lambda x: F.conv2d(x, *tensors(KERNEL, BIAS))),
    "conv custom": (
        lambda x: mb.conv(x=x, weight=KERNEL, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2]),
        lambda x: F.conv2d(x, *tensors(KERNEL), None, 2, 1),
    ),
    "conv uneven": (
        lambda x: mb.conv(x=x, weight=KERNEL, pad_type="custom", pad=[0, 1, 2, 0]),
        lambda x: F.conv2d(F.pad(x, (2, 0, 0, 1)), *tensors(KERNEL)),
    ),
    "conv same": (
        lambda x: mb.conv(x=x, weight=KERNEL, pad_type="same", strides=[2, 2]),
        lambda x: F.conv2d(F.pad(x, (0, 1, 1, 1)), *tensors(KERNEL), None, 2),
    ),
    "conv depthwise": (
        lambda x: mb.conv(x=x, weight=DEEP, groups=4, dilations=[2, 2]),
        lambda x: F.conv2d(x, *tensors(DEEP), None, dilation=2, groups=4),
    ),
    "conv transposed": (
        lambda x: mb.conv_transpose(x=x, weight=UP, bias=BIAS[:3], pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2]),
        lambda x: F.conv_transpose2d(x, *tensors(UP, BIAS[:3]), 2, 1),
    ),
    "conv transposed to a size": (
        lambda x: mb.conv_transpose(
            x=x,
            weight=UP,
            bias=BIAS[:3],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            strides=[2, 2],
            output_shape=[1, 3, 18, 16],
        ),
        lambda x: F.conv_transpose2d(x, *tensors(UP, BIAS[:3]), 2, 1, 1),
    ),
    "average of all": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
    ),
    "average without padding": (
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "maximum": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[5, 5], strides=[1, 1], pad_type="custom", pad=[2, 2, 2, 2]),
        lambda x: F.max_pool2d(x, 5, 1, 2),
    ),
    "maximum, ceil": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    ),
    "batch norm": (
        lambda x: mb.batch_norm(x=x, mean=BIAS[:4], variance=np.abs(BIAS[:4]), gamma=BIAS[:4], beta=BIAS[2:]),
        lambda x: F.batch_norm(x, *tensors(BIAS[:4], np.abs(BIAS[:4]), BIAS[:4], BIAS[2:])),
    ),
    "instance norm": (
        lambda x: mb.instance_norm(x=x, gamma=BIAS[:4], beta=BIAS[2:]),
        lambda x: F.instance_norm(x, weight=torch.from_numpy(BIAS[:4]), bias=torch.from_numpy(BIAS[2:])),
    ),
    "layer norm": (
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=ROWS.ravel()[:8], beta=ROWS.ravel()[8:16], epsilon=1e-6),
        lambda x: F.layer_norm(x, (8,), *tensors(ROWS.ravel()[:8], ROWS.ravel()[8:16]), 1e-6),
    ),
    "layer norm of channels": (
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=BIAS[:4], beta=BIAS[2:]),
        lambda x: F.layer_norm(x.movedim(1, -1), (4,), *tensors(BIAS[:4], BIAS[2:])).movedim(-1, 1),
    ),
    "prelu": (lambda x: mb.prelu(x=x, alpha=BIAS[:4]), lambda x: F.prelu(x, torch.from_numpy(BIAS[:4]))),
    "linear": (
        lambda x: mb.linear(x=x, weight=ROWS[0, :, :1] * np.ones((3, 8), np.float32), bias=BIAS[:3]),
        lambda x: F.linear(
            x, torch.from_numpy(ROWS[0, :, :1] * np.ones((3, 8), np.float32)), torch.from_numpy(BIAS[:3])
        ),
    ),
    "matmul": (lambda x: mb.matmul(x=x, y=x, transpose_y=True), lambda x: x @ x.mT),
    "attention": (
        lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x),
        lambda x: F.scaled_dot_product_attention(x, x, x),
    ),
    "nearest": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
    ),
    "bilinear": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=2, align_corners=False),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    ),
    "bilinear, corners": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=13, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, (13, 4), mode="bilinear", align_corners=True),
    ),
}

SHAPES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "reshape": (lambda x: mb.reshape(x=x, shape=[0, 5, -1]), lambda x: x.reshape(2, 5, 3)),
    "transpose": (lambda x: mb.transpose(x=x, perm=[2, 0, 1]), lambda x: x.permute(2, 0, 1)),
    "expand and squeeze": (
        lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, -1]), axes=[0]),
        lambda x: x.unsqueeze(-1),
    ),
    "slice": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, 2, 1],
            end=[0, 0, 5],
            stride=[1, -1, 2],
            squeeze_mask=[True, False, False],
            end_mask=[False, True, False],
        ),
        lambda x: x[0].flip(0)[:, 1:5:2],
    ),
    "slice from the end": (
        lambda x: mb.slice_by_index(x=x, begin=[0, -2, 0], end=[2, -1, 5], begin_mask=[True, False, True]),
        lambda x: x[:, -2:-1],
    ),
    "slice by size": (lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2], size=[2, 1, -1]), lambda x: x[:, 1:2, 2:]),
    "slice update": (
        lambda x: mb.slice_update(
            x=x, update=np.zeros((2, 1, 2), np.float32), begin=[0, 1, 0], end=[2, 2, 4], stride=[1, 1, 2]
        ),
        lambda x: torch.cat([x[:, :1], x[:, 1:2] * torch.tensor([0.0, 1, 0, 1, 1]), x[:, 2:]], 1),
    ),
    "concat": (lambda x: mb.concat(values=(x, x), axis=-1), lambda x: torch.cat([x, x], -1)),
    "concat in turns": (
        lambda x: mb.concat(values=(x, mb.mul(x=x, y=2.0)), axis=1, interleave=True),
        lambda x: torch.stack([x, 2 * x], 2).flatten(1, 2),
    ),
    "split": (lambda x: mb.split(x=x, split_sizes=[1, 4], axis=2)[1], lambda x: x[..., 1:]),
    "split evenly": (lambda x: mb.split(x=x, num_splits=3, axis=1)[1], lambda x: x[:, 1:2]),
    "stack": (lambda x: mb.stack(values=(x, x), axis=1), lambda x: torch.stack([x, x], 1)),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1]), lambda x: x.tile(1, 2, 1)),
    "reverse": (lambda x: mb.reverse(x=x, axes=[1]), lambda x: x.flip(1)),
    "pad": (
        lambda x: mb.pad(x=x, pad=[0, 0, 1, 2, 0, 3], constant_val=1.5),
        lambda x: F.pad(x, (0, 3, 1, 2), value=1.5),
    ),
    "pad by reflection": (
        lambda x: mb.pad(x=x, pad=[1, 2], mode="reflect"),
        lambda x: F.pad(x, (1, 2), mode="reflect"),
    ),
    "gather": (
        lambda x: mb.gather(x=x, indices=np.array([[2, 0], [-1, 1]], np.int32), axis=1),
        lambda x: x[:, torch.tensor([[2, 0], [2, 1]])],
    ),
    "gather along": (
        lambda x: mb.gather_along_axis(x=x, indices=np.array([[[1, 0, 2, 2, 1]]] * 2, np.int32), axis=1),
        lambda x: x.gather(1, torch.tensor([[[1, 0, 2, 2, 1]]] * 2)),
    ),
    "gather nd": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[1, 2], [0, 0]], np.int32)),
        lambda x: torch.stack([x[1, 2], x[0, 0]]),
    ),
    "scatter": (
        lambda x: mb.scatter(
            data=x, indices=np.array([2], np.int32), updates=np.ones((2, 1, 5), np.float32), axis=1, mode="update"
        ),
        lambda x: torch.cat([x[:, :2], torch.ones(2, 1, 5)], 1),
    ),
    "scatter nd": (
        lambda x: mb.scatter_nd(
            data=x, indices=np.array([[1, 0]], np.int32), updates=np.ones((1, 5), np.float32), mode="add"
        ),
        lambda x: x + torch.tensor([[0.0, 0, 0], [1, 0, 0]])[..., None],
    ),
    "band": (lambda x: mb.band_part(x=x, lower=1, upper=0), lambda x: x.triu(-1).tril(0)),
    "top": (lambda x: mb.topk(x=x, k=2, axis=2)[0], lambda x: x.topk(2, 2).values),
    "fill": (lambda x: mb.add(x=x, y=mb.fill_like(ref_tensor=x, value=2.0)), lambda x: x + 2),
}

MATH: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "binary": (
        lambda x: mb.real_div(x=mb.sub(x=mb.mul(x=x, y=3.0), y=1.0), y=mb.add(x=mb.square(x=x), y=1.0)),
        lambda x: (3 * x - 1) / (x**2 + 1),
    ),
    "choice": (
        lambda x: mb.select(cond=mb.greater(x=x, y=0.5), a=x, b=mb.minimum(x=x, y=-1.0)),
        lambda x: torch.where(x > 0.5, x, x.clamp(max=-1)),
    ),
    "floor and remainder": (
        lambda x: mb.add(x=mb.floor_div(x=x, y=0.75), y=mb.mod(x=x, y=0.75)),
        lambda x: torch.floor(x / 0.75) + torch.remainder(x, 0.75),
    ),
    "gelu": (lambda x: mb.gelu(x=x), F.gelu),
    "gelu by tanh": (lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (lambda x: mb.silu(x=x), F.silu),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "leaky": (lambda x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "hard sigmoid": (lambda x: mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5), F.hardsigmoid),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=1.0), lambda x: x.clamp(-0.5, 1)),
    "clamped": (
        lambda x: mb.clamped_relu(x=x, alpha=0.5, beta=1.0),
        lambda x: torch.where(x > 0, x, x / 2).clamp(max=1),
    ),
    "roots": (lambda x: mb.rsqrt(x=mb.abs(x=x), epsilon=0.1), lambda x: (x.abs() + 0.1).rsqrt()),
    "logarithm": (lambda x: mb.log(x=mb.exp(x=x)), lambda x: torch.log(torch.exp(x))),
    "sums": (lambda x: mb.cumsum(x=x, axis=2, exclusive=True), lambda x: x.cumsum(2) - x),
    "mean": (lambda x: mb.reduce_mean(x=x, axes=[0, 2], keep_dims=True), lambda x: x.mean((0, 2), keepdim=True)),
    "maximum": (lambda x: mb.reduce_max(x=x, axes=[-1]), lambda x: x.amax(-1)),
    "log sum exp": (lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), lambda x: x.logsumexp(1)),
    "product": (lambda x: mb.reduce_prod(x=x, axes=[0, 1]), lambda x: x.prod(0).prod(0)),
    "norm": (lambda x: mb.reduce_l2_norm(x=x, axes=[2]), lambda x: x.norm(dim=2)),
    "arg": (lambda x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1)),
    "integers": (
        lambda x: mb.cast(x=mb.cast(x=mb.mul(x=x, y=3.0), dtype="int32"), dtype="fp32"),
        lambda x: (3 * x).trunc(),
    ),
    "truth": (
        lambda x: mb.cast(x=mb.logical_and(x=mb.greater(x=x, y=0.0), y=mb.less(x=x, y=1.0)), dtype="fp32"),
        lambda x: ((x > 0) & (x < 1)).float(),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    check(LAYERS[name], IMAGE)


@pytest.mark.parametrize("name", SHAPES)
def test_moving_values(name: str) -> None:
    check(SHAPES[name], ROWS)


@pytest.mark.parametrize("name", MATH)
def test_arithmetic(name: str) -> None:
    check(MATH[name], ROWS)


def check(pair: tuple[Callable[..., Any], Callable[..., Any]], x: Array) -> None:
    build, wanted = pair
    expected = wanted(torch.from_numpy(x)).numpy()
    (got,) = run(build, x)
    assert got.shape == expected.shape
    close(got, expected)


# Types


def test_shapes_that_are_known_only_when_run() -> None:
    (got,) = run(
        lambda x: mb.reshape(x=x, shape=mb.concat(values=(mb.gather(x=mb.shape(x=x), indices=[1]), [-1]), axis=0)), ROWS
    )
    assert got.shape == (3, 10)


def test_fp16_rounds_every_result_and_exact_none() -> None:
    build = lambda x: mb.sub(x=mb.add(x=x, y=np.float16(2048)), y=np.float16(2048))  # noqa: E731
    x = np.array([0.75, 1.25], np.float32)
    assert run(build, x, dtype="fp16")[0].tolist() == [0.0, 2.0]  # spacing of fp16 at 2048: 2, halves to even
    assert run(build, x, dtype="fp16", arithmetic="exact")[0].tolist() == [0.75, 1.25]


def test_fp16_overflows_to_infinity() -> None:
    (got,) = run(lambda x: mb.mul(x=x, y=np.float16(1000)), np.array([50.0, 70.0], np.float32), dtype="fp16")
    assert got.tolist() == [49984.0, np.inf]  # 50000 lies between two numbers of fp16


@given(st.floats(-300, 300, width=32), st.floats(0.0625, 4, width=32), st.integers(-100, 100))
def test_quantising_is_rounding_and_clipping(value: float, scale: float, zero: int) -> None:
    from edgedeploy_coreml.mil_elementwise import dequantize, quantize

    x, s, z = torch.tensor([value]), torch.tensor(scale), torch.tensor(zero)
    q = quantize(x, s, "int8", z)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)
    assert -128 <= float(q) <= 127
    assert (
        float((dequantize(q, s, z) - expected).abs().max()) <= scale * 1e-3 + 1e-5
        or abs(value / scale % 1 - 0.5) < 1e-3
    )


def test_quantised_along_an_axis() -> None:
    scale, x = np.array([0.1, 0.2, 0.4], np.float32), ROWS
    (got,) = run(
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=scale, axis=1, output_dtype="int8"), scale=scale, axis=1
        ),
        x,
    )
    steps = scale.reshape(1, 3, 1)
    close(got, np.rint(x.astype(np.float32) / steps) * steps)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([1, 2, -1])),
        min_size=1,
        max_size=3,
    )
)
def test_slices_take_what_python_takes(dims: list[tuple[int, int, int, int]]) -> None:
    shape = [d[0] for d in dims]
    x = torch.arange(float(np.prod(shape))).reshape(shape)
    got = mil_shapes.slice_by_index(x, [d[1] for d in dims], [d[2] for d in dims], [d[3] for d in dims])
    np.testing.assert_array_equal(got.numpy(), x.numpy()[tuple(slice(*d[1:]) for d in dims)])


# What is refused


def test_unknown_operations_are_all_named() -> None:
    lstm = {"weight_ih": np.zeros((8, 4), np.float32), "weight_hh": np.zeros((8, 2), np.float32)}
    zeros = np.zeros((1, 2), np.float32)

    def build(x: Any) -> Any:
        h, _, _ = mb.lstm(x=x, initial_h=zeros, initial_c=zeros, **lstm)
        return mb.random_uniform(shape=mb.shape(x=h))

    with pytest.raises(Unavailable) as caught:
        run(build, numbers(3, 1, 4))
    assert "does not know lstm, random_uniform;" in str(caught.value)


def test_a_mode_that_is_not_known_is_named() -> None:
    with pytest.raises(Unavailable, match=r"does not know resize_bilinear\(sampling_mode=DEFAULT\) \(at"):
        run(lambda x: mb.resize_bilinear(x=x, target_size_height=4, target_size_width=4), IMAGE)


def test_an_operation_that_fails_is_named() -> None:
    made = Interpreter(program(lambda x: mb.matmul(x=x, y=np.ones((5, 2), np.float32), name="product"), ROWS))
    with pytest.raises(RunFailed, match="operation matmul 'product' failed"):
        made.run({made.inputs[0]: ROWS[..., :4]})


def test_every_operation_takes_what_core_ml_gives_it() -> None:
    """No parameter name of the operation set is missed, and none is a tensor here and an attribute there."""
    import inspect

    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    ignored = {"read_state", "coreml_update_state"}
    for name, function in OPS.items():
        variants = SSAOpRegistry.core_ops[name]
        newest = variants[max(variants)] if not callable(variants) else variants
        taken = set(inspect.signature(function).parameters)
        declared = set(newest.input_spec.input_types)
        assert declared - taken <= ignored, (name, declared - taken)
    assert {"pad", "axes", "perm"} <= ATTRIBUTES
