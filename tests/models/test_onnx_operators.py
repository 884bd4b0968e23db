"""Every ONNX operator that is made a PyTorch module computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch  # noqa: E402

from edgedeploy.errors import ExportFailed  # noqa: E402
from edgedeploy.models.onnx_network import OnnxNetwork  # noqa: E402
from edgedeploy.models.onnx_operators import OPERATORS  # noqa: E402

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
anything = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def wave(*shape: int) -> Array:
    """Values between about -2 and 2 without ties."""
    return RANDOM.permutation(np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32)).reshape(shape)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def node_file(
    path: Path,
    op: str,
    inputs: Sequence[Array | None],
    given: int,
    attributes: Mapping[str, Any],
    opset: int,
    outputs: int,
) -> Path:
    """A file with one node: the first ``given`` inputs come from outside, the others are initializers."""
    helper = onnx.helper
    names = ["" if a is None else f"in{i}" for i, a in enumerate(inputs)]
    results = [f"out{i}" for i in range(outputs)]
    outside = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names[:given], inputs, strict=False)
        if a is not None
    ]
    fixed = [
        onnx.numpy_helper.from_array(a, n) for n, a in zip(names[given:], inputs[given:], strict=True) if a is not None
    ]
    node = helper.make_node(op, names, results, "node", **attributes)
    graph = helper.make_graph([node], "one", outside, [onnx.ValueInfoProto(name=n) for n in results], fixed)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.save(proto, path)
    return path


def by_onnx_runtime(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def check(
    folder: Path,
    op: str,
    inputs: Sequence[Array | None],
    given: int = 1,
    opset: int = 18,
    outputs: int = 1,
    **attributes: Any,
) -> None:
    """The network and ONNX Runtime agree, on values, shape and type; exported, it still computes the same."""
    path = node_file(folder / f"{op}.onnx", op, inputs, given, attributes, opset, outputs)
    feeds = {f"in{i}": a for i, a in enumerate(inputs[:given]) if a is not None}
    wanted = by_onnx_runtime(path, feeds)
    network = OnnxNetwork(path)
    tensors = tuple(torch.from_numpy(a) for a in feeds.values())
    for run in (network, torch.export.export(network, tensors).module()):
        got = run(*tensors)
        for a, b in zip(wanted, (got,) if isinstance(got, torch.Tensor) else got, strict=True):
            assert tuple(b.shape) == a.shape, (op, attributes)
            assert b.dtype == torch.from_numpy(a).dtype, (op, attributes)
            np.testing.assert_allclose(b.numpy(), a, rtol=2e-5, atol=2e-5)


#: Operators that take one tensor and need no attribute.
UNARY = """
    Abs Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu LogSoftmax Neg Reciprocal
    Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Tan Tanh Mish Flatten Transpose Shape Size IsNaN
    GlobalMaxPool GlobalAveragePool ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2
    ReduceLogSumExp ReduceSumSquare ArgMax ArgMin Dropout
""".split()  # noqa: SIM905 - as a list it would fill the screen


@pytest.mark.parametrize("op", UNARY)
def test_with_all_attributes_left_out(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, [wave(2, 3, 4, 5)])


@pytest.mark.parametrize("op", ["Log", "Sqrt"])
def test_of_positive_values(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, [wave(2, 3, 4) + 3])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu"])
@pytest.mark.parametrize("given", [1, 2])
def test_of_two_that_broadcast(op: str, given: int, tmp_path: Path) -> None:
    a, b = wave(2, 3, 4, 5), wave(3, 1, 1) + 3
    check(tmp_path, op, [np.abs(a) if op == "Pow" else a, b], given)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, [np.round(wave(3, 4)), np.round(wave(3, 4))], 2)


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Not"])
def test_logic(op: str, tmp_path: Path) -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    check(tmp_path, op, [a] if op == "Not" else [a, b], 1 if op == "Not" else 2)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Add", [ints(7, -7, 3), ints(2, 2, -2)], {"given": 2}),
    ("Div", [ints(7, -7, 7, -7), ints(2, 2, -2, -2)], {"given": 2}),
    ("Mod", [ints(7, -7, 7, -7), ints(2, 2, -2, -2)], {"given": 2}),
    ("Mod", [wave(7) * 9, wave(7) + 3], {"given": 2, "fmod": 1}),
    ("Pow", [np.abs(wave(3, 4)), np.float32(0.5)], {}),
    ("Pow", [np.array([1, 2, 3], np.int32), np.array([2.0, 2.0, 2.0], np.float32)], {"given": 2}),
    ("Clip", [wave(3, 4), np.float32(-1), np.float32(1)], {}),
    ("Clip", [wave(3, 4), np.float32(0)], {}),
    ("Clip", [wave(3, 4), None, np.float32(1)], {}),
    ("Clip", [wave(3, 4)], {}),
    ("Clip", [wave(3, 4)], {"opset": 10, "min": 0.0, "max": 1.5}),
    ("Clip", [ints(-5, 0, 5), np.array(-1, np.int64), np.array(3, np.int64)], {}),
    ("LeakyRelu", [wave(3, 4)], {"alpha": 0.3}),
    ("Elu", [wave(3, 4)], {"alpha": 0.3}),
    ("HardSigmoid", [wave(3, 40) * 4], {"alpha": 1 / 6, "beta": 0.5}),
    ("Gelu", [wave(3, 4)], {"opset": 20}),
    ("Gelu", [wave(3, 4)], {"opset": 20, "approximate": "tanh"}),
    ("PRelu", [wave(2, 3), wave(3)], {}),
    ("PRelu", [wave(2, 3, 4), np.array([0.2], np.float32)], {}),
    ("Softmax", [wave(2, 3, 4)], {"axis": 1}),
    ("Softmax", [wave(2, 3, 4)], {"opset": 11}),
    ("LogSoftmax", [wave(2, 3, 4, 2)], {"opset": 11, "axis": 2}),
    ("Cast", [wave(9) * 3], {"to": 7}),
    ("Cast", [wave(9)], {"to": 9}),
    ("Cast", [ints(0, 1, 2)], {"to": 9}),
    ("Cast", [wave(9)], {"to": 10}),
    ("CastLike", [wave(9), ints(1)], {}),
    ("Where", [wave(3, 4) > 0, wave(3, 4), wave(4)], {"given": 3}),
    ("ReduceMean", [wave(2, 3, 4), ints(-1, 1)], {"keepdims": 0}),
    ("ReduceMean", [wave(2, 3, 4)], {"opset": 13, "axes": [1]}),
    ("ReduceSum", [wave(2, 3, 4), ints(0)], {}),
    ("ReduceSum", [wave(2, 3, 4)], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [ints(1, 2, 3)], {}),
    ("ReduceProd", [wave(2, 3, 4), ints(0, 2)], {"keepdims": 0}),
    ("ReduceL2", [wave(2, 3, 4), ints(-1)], {}),
    ("ArgMax", [wave(2, 3, 4)], {"axis": 2, "keepdims": 0}),
    ("TopK", [wave(3, 7), ints(3)], {"outputs": 2}),
    ("TopK", [wave(3, 7), ints(3)], {"outputs": 2, "axis": 0, "largest": 0}),
    ("CumSum", [wave(3, 7), np.array(1, np.int64)], {}),
    ("CumSum", [wave(3, 7), np.array(0, np.int64)], {"reverse": 1}),
    ("Einsum", [wave(2, 3, 4), wave(2, 4, 5)], {"given": 2, "equation": "bij,bjk->bik"}),
    ("MatMul", [wave(2, 3, 4), wave(4, 5)], {}),
    ("MatMul", [wave(2, 3, 4), wave(2, 4, 5)], {"given": 2}),
    ("MatMul", [wave(4), wave(4, 5)], {}),
    ("MatMul", [wave(3, 4), wave(4)], {}),
    ("Gemm", [wave(3, 4), wave(4, 5), wave(5)], {}),
    ("Gemm", [wave(3, 4), wave(5, 4), wave(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [wave(4, 3), wave(4, 5), wave(3, 1)], {"transA": 1}),
    ("Gemm", [wave(3, 4), wave(4, 5), np.float32(2)], {}),
    ("Gemm", [wave(3, 4), wave(4, 5)], {"given": 2}),
    ("BatchNormalization", [wave(2, 3, 4, 4), wave(3), wave(3), wave(3), wave(3) + 3], {"epsilon": 0.01}),
    ("InstanceNormalization", [wave(2, 3, 4, 4), wave(3), wave(3)], {}),
    ("GroupNormalization", [wave(2, 4, 3, 3), wave(4), wave(4)], {"opset": 21, "num_groups": 2}),
    ("LayerNormalization", [wave(2, 3, 4), wave(4), wave(4)], {}),
    ("LayerNormalization", [wave(2, 3, 4), wave(3, 4)], {"axis": 1, "epsilon": 0.1}),
    ("LayerNormalization", [wave(2, 3, 4), wave(1)], {}),
    ("LRN", [wave(1, 7, 3, 3)], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}),
    ("Reshape", [wave(2, 3, 4), ints(0, -1)], {}),
    ("Flatten", [wave(2, 3, 4)], {"axis": 2}),
    ("Flatten", [wave(2, 3, 4)], {"axis": 0}),
    ("Flatten", [wave(2, 3, 4)], {"axis": -1}),
    ("Squeeze", [wave(2, 1, 4, 1), ints(-1)], {}),
    ("Squeeze", [wave(2, 1, 4, 1)], {}),
    ("Squeeze", [wave(2, 1, 4, 1)], {"opset": 11, "axes": [1]}),
    ("Unsqueeze", [wave(2, 3), ints(0, -1)], {}),
    ("Unsqueeze", [wave(2, 3)], {"opset": 11, "axes": [1, 3]}),
    ("Transpose", [wave(2, 3, 4)], {"perm": [2, 0, 1]}),
    ("Expand", [wave(3, 1), ints(2, 1, 4)], {}),
    ("Expand", [wave(3, 4), ints(1)], {}),
    ("Tile", [wave(2, 3), ints(2, 3)], {}),
    ("Concat", [wave(2, 3), wave(2, 3)], {"given": 2, "axis": -1}),
    ("Split", [wave(2, 7), ints(3, 4)], {"outputs": 2, "axis": 1}),
    ("Split", [wave(2, 7)], {"outputs": 3, "axis": 1, "num_outputs": 3}),
    ("Split", [wave(2, 6)], {"outputs": 2, "opset": 11, "axis": -1}),
    ("Split", [wave(2, 7)], {"outputs": 2, "opset": 11, "axis": 1, "split": [3, 4]}),
    ("Slice", [wave(4, 5)], {"opset": 9, "starts": [1, -3], "ends": [3, 9], "axes": [0, 1]}),
    ("Gather", [wave(4, 5), np.array(-1, np.int64)], {"axis": 1}),
    ("Gather", [wave(4, 5), ints(0, -1, 2)], {}),
    ("Gather", [wave(4, 5, 3), np.array([[0, 2], [1, 1]])], {"axis": 1}),
    ("Gather", [np.array([[0, -2], [1, 1]]), wave(2)], {"swap": 1}),
    ("GatherElements", [wave(4, 5), np.array([[0, -1, 2, 1, 1]])], {"given": 2}),
    ("GatherND", [wave(4, 5), np.array([[0, 1], [3, -1]])], {"given": 2}),
    ("ScatterND", [wave(4, 5), np.array([[0], [3]]), wave(2, 5)], {"given": 3}),
    ("ConstantOfShape", [ints(2, 3)], {"given": 0}),
    ("Trilu", [wave(4, 5), np.array(1, np.int64)], {}),
    ("Trilu", [wave(4, 5)], {"upper": 0}),
    ("DepthToSpace", [wave(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [wave(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [wave(1, 2, 4, 6)], {"blocksize": 2}),
    ("Upsample", [wave(1, 2, 3, 4), np.array([1, 1, 2, 3], np.float32)], {"opset": 9}),
    ("Resize", [wave(1, 2, 3, 4), np.array([1, 1, 2, 3], np.float32)], {"opset": 10}),
    ("QuantizeLinear", [wave(2, 3, 4) * 9, np.float32(0.1), np.uint8(7)], {}),
    ("QuantizeLinear", [wave(2, 3, 4) * 9, wave(3) * 0.01 + 0.1, np.zeros(3, np.int8)], {}),
    ("QuantizeLinear", [wave(2, 3) * 9, np.float32(0.1)], {}),
    ("DequantizeLinear", [np.arange(-6, 6, dtype=np.int8).reshape(3, 4), wave(3), np.ones(3, np.int8)], {"axis": 0}),
    ("DequantizeLinear", [np.arange(6, dtype=np.int32).reshape(2, 3), np.float32(0.1)], {}),
]


@pytest.mark.parametrize(("op", "inputs", "options"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_with_attributes(op: str, inputs: list[Any], options: dict[str, Any], tmp_path: Path) -> None:
    options = dict(options)
    arrays = [None if a is None else np.asarray(a) for a in inputs]
    if options.get("given") == 0:
        check_folded(tmp_path, op, arrays)
    elif options.pop("swap", None):  # the table is constant and the indices come from outside
        check_swapped(tmp_path, op, arrays)
    else:
        check(tmp_path, op, arrays, **options)


def chain(
    path: Path, nodes: Sequence[Any], inputs: Mapping[str, Array], fixed: Mapping[str, Array], result: str
) -> Path:
    helper = onnx.helper
    outside = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in fixed.items()]
    graph = helper.make_graph(list(nodes), "chain", outside, [onnx.ValueInfoProto(name=result)], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def check_folded(folder: Path, op: str, inputs: Sequence[Array | None]) -> None:
    """An operator without inputs from outside, added to one."""
    make = onnx.helper.make_node
    nodes = [make(op, ["in0"], ["middle"], "node"), make("Add", ["x", "middle"], ["y"], "add")]
    x = wave(2, 3)
    path = chain(
        folder / "net.onnx", nodes, {"x": x}, {f"in{i}": a for i, a in enumerate(inputs) if a is not None}, "y"
    )
    network = OnnxNetwork(path)
    assert [name for name, _ in network.named_children()] == ["add"]
    np.testing.assert_array_equal(network(torch.from_numpy(x)).numpy(), by_onnx_runtime(path, {"x": x})[0])


def check_swapped(folder: Path, op: str, inputs: Sequence[Array | None]) -> None:
    indices, table = inputs
    assert indices is not None
    assert table is not None
    node = onnx.helper.make_node(op, ["table", "x"], ["y"], "node")
    path = chain(folder / "net.onnx", [node], {"x": indices}, {"table": table}, "y")
    got = OnnxNetwork(path)(torch.from_numpy(indices)).numpy()
    np.testing.assert_array_equal(got, by_onnx_runtime(path, {"x": indices})[0])


def test_what_onnx_runtime_does_not_run_agrees_with_the_reference(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    for op, attributes, opset in (
        ("Swish", {"alpha": 0.5}, 24),
        ("Swish", {}, 24),
        ("RMSNormalization", {"axis": -1}, 23),
    ):
        inputs: list[Array | None] = [wave(3, 4), wave(4)] if op == "RMSNormalization" else [wave(3, 4)]
        path = node_file(tmp_path / "net.onnx", op, inputs, 1, attributes, opset, 1)
        wanted = ReferenceEvaluator(onnx.load(path)).run(None, {"in0": inputs[0]})[0]
        np.testing.assert_allclose(OnnxNetwork(path)(torch.from_numpy(inputs[0])).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_every_operator_is_compared() -> None:
    elsewhere = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Pad", "Range", "Swish", "RMSNormalization"}
    two = {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "PRelu",
        "And",
        "Or",
        "Xor",
        "Not",
        "Log",
        "Sqrt",
    }
    two |= {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    assert set(OPERATORS) - elsewhere - two - set(UNARY) - {case[0] for case in CASES} == set()


# Attributes at random


AUTO = st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])


def sliding(data: st.DataObject, rank: int, dilated: bool = True) -> dict[str, Any]:
    """Attributes of a kernel over ``rank`` axes."""

    def some(low: int, high: int, n: int = rank) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    attributes: dict[str, Any] = {"kernel_shape": some(1, 4), "strides": some(1, 3), "auto_pad": data.draw(AUTO)}
    if dilated and data.draw(st.booleans()):
        attributes["dilations"] = some(1, 2)
    if attributes["auto_pad"] == "NOTSET" and data.draw(st.booleans()):
        attributes["pads"] = some(0, 2, 2 * rank)
    if data.draw(st.booleans()):
        del attributes["strides"]
    return attributes


def agrees(folder: Path, op: str, inputs: Sequence[Array], opset: int = 18, **attributes: Any) -> None:
    """As `check`, without the export, and only where ONNX Runtime takes the attributes at all."""
    path = node_file(folder / "net.onnx", op, inputs, 1, attributes, opset, 1)
    try:
        wanted = by_onnx_runtime(path, {"in0": inputs[0]})[0]
    except Exception:
        assume(False)
    assume(wanted.size > 0)
    got = OnnxNetwork(path)(torch.from_numpy(inputs[0])).numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


@anything
@given(data=st.data(), rank=st.integers(1, 3), group=st.integers(1, 2), bias=st.booleans())
def test_convolutions(data: st.DataObject, rank: int, group: int, bias: bool, tmp_path: Path) -> None:
    attributes = sliding(data, rank)
    weight = wave(4, 4 // group, *attributes["kernel_shape"])
    size = data.draw(st.lists(st.integers(7, 9), min_size=rank, max_size=rank))
    agrees(tmp_path, "Conv", [wave(1, 4, *size), weight, *([wave(4)] if bias else [])], group=group, **attributes)


@anything
@given(data=st.data(), rank=st.integers(1, 2), group=st.integers(1, 2), bias=st.booleans())
def test_transposed_convolutions(data: st.DataObject, rank: int, group: int, bias: bool, tmp_path: Path) -> None:
    attributes = sliding(data, rank)
    if "strides" in attributes and data.draw(st.booleans()):
        attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in attributes["strides"]]
    weight = wave(4, 2, *attributes["kernel_shape"])
    size = data.draw(st.lists(st.integers(4, 6), min_size=rank, max_size=rank))
    try:
        agrees(
            tmp_path,
            "ConvTranspose",
            [wave(1, 4, *size), weight, *([wave(2 * group)] if bias else [])],
            group=group,
            **attributes,
        )
    except ExportFailed as error:
        assert "output_shape" in str(error)


@anything
@given(data=st.data(), rank=st.integers(1, 3), ceil=st.booleans())
def test_max_pools(data: st.DataObject, rank: int, ceil: bool, tmp_path: Path) -> None:
    attributes = sliding(data, rank)
    size = data.draw(st.lists(st.integers(7, 9), min_size=rank, max_size=rank))
    try:
        agrees(tmp_path, "MaxPool", [wave(1, 2, *size)], ceil_mode=int(ceil), **attributes)
    except ExportFailed as error:
        assert "with dilations" in str(error)


@anything
@given(data=st.data(), rank=st.integers(1, 3), ceil=st.booleans(), padding=st.booleans())
def test_average_pools(data: st.DataObject, rank: int, ceil: bool, padding: bool, tmp_path: Path) -> None:
    attributes = sliding(data, rank, dilated=False)
    size = data.draw(st.lists(st.integers(7, 9), min_size=rank, max_size=rank))
    try:
        agrees(
            tmp_path,
            "AveragePool",
            [wave(1, 2, *size)],
            ceil_mode=int(ceil),
            count_include_pad=int(padding),
            **attributes,
        )
    except ExportFailed as error:
        assert "ceil_mode" in str(error)


@anything
@given(data=st.data())
def test_slices(data: st.DataObject, tmp_path: Path) -> None:
    edge = st.sampled_from([-(2**63), 2**63 - 1, -9, -7, -4, -1, 0, 1, 3, 6, 7, 9])
    axes = data.draw(st.permutations([0, 1, -1]).map(lambda p: p[:2]).filter(lambda p: set(p) != {1, -1}))
    starts, ends = ([data.draw(edge) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    agrees(tmp_path, "Slice", [wave(7, 6), *(ints(*v) for v in (starts, ends, axes, steps))])


@anything
@given(data=st.data(), mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]))
def test_pads(data: st.DataObject, mode: str, tmp_path: Path) -> None:
    low, chosen = (-1 if mode == "constant" else 0), data.draw(st.integers(1, 4))
    pads = [0] * 8
    for axis in range(4 - chosen, 4):
        pads[axis], pads[axis + 4] = data.draw(st.integers(low, 2)), data.draw(st.integers(low, 2))
    value = [np.float32(0.5)] if mode == "constant" else []
    try:
        agrees(tmp_path, "Pad", [wave(3, 3, 4, 5), ints(*pads), *map(np.asarray, value)], opset=19, mode=mode)
    except ExportFailed as error:
        assert "over 4 axes" in str(error)


@anything
@given(data=st.data(), mode=st.sampled_from(["nearest", "nearest", "linear", "cubic"]), by_scale=st.booleans())
def test_resizing(data: st.DataObject, mode: str, by_scale: bool, tmp_path: Path) -> None:
    places = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
    attributes = {"mode": mode, "coordinate_transformation_mode": data.draw(st.sampled_from(places))}
    if mode == "nearest":
        roundings = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        attributes["nearest_mode"] = data.draw(st.sampled_from(roundings))
    rank = 2 if mode == "cubic" else data.draw(st.integers(1, 2))
    size = data.draw(st.lists(st.integers(2, 7), min_size=rank, max_size=rank))
    none = np.zeros(0, np.float32)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank))
    if by_scale:
        factors = data.draw(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), min_size=rank, max_size=rank))
        rest: list[Array] = [none, np.array([1, 1, *factors], np.float32)]
    else:
        # where the ratio is no binary fraction, what is rounded may lie on either side of a tie
        assume(mode != "nearest" or all((64 * out / n).is_integer() for out, n in zip(sizes, size, strict=True)))
        rest = [none, none, ints(1, 2, *sizes)]
    try:
        agrees(tmp_path, "Resize", [wave(1, 2, *size), *rest], opset=19, **attributes)
    except ExportFailed as error:
        assert "coordinate_transformation_mode" in str(error)
