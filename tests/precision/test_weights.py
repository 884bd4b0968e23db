"""int8 weights in ONNX graphs: what is rounded, by how much, and what the graph then computes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.capture import COMPUTES_KEY
from edgedeploy.compare import snr
from edgedeploy.errors import UsageError
from edgedeploy.precision.bodies import close_bodies
from edgedeploy.precision.half import HalfLowering
from edgedeploy.precision.weights import Form, WeightLowering
from edgedeploy.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 3, 8, 8)),), (TensorSpec("y", "float32", (1, 10)),))
FORMS: tuple[Form, ...] = ("dequantize", "products")
UNITS = ["conv", "up", "matmul", "gemm", "tied"]


def value(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def saved(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.float32]], x: tuple[int, ...]
) -> Path:
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value("x", *x)], [value("y", 1, 10)], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Every kind of layer with weights; two of them share theirs, and the last has too few to be worth it."""
    generator = np.random.default_rng(0)
    shapes = {
        "c": (16, 3, 3, 3),
        "u": (16, 4, 2, 2),
        "m": (1024, 40),
        "g": (40, 40),
        "b": (40,),
        "s": (40, 2),
        "l": (2, 10),
    }
    weights = {k: (generator.standard_normal(v) / np.prod(v[1:]) ** 0.5).astype(np.float32) for k, v in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["c1"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c1", "u"], ["c2"], "up", strides=[2, 2]),
        helper.make_node("Flatten", ["c2"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "m"], ["f1"], "matmul"),
        helper.make_node("Gemm", ["f1", "g", "b"], ["f2"], "gemm", transB=1),
        helper.make_node("Gemm", ["f2", "g"], ["f3"], "tied", transB=1),
        helper.make_node("MatMul", ["f3", "s"], ["f4"], "few"),
        helper.make_node("MatMul", ["f4", "l"], ["y"], "last"),
    ]
    return saved(tmp_path / "float.onnx", nodes, weights, (1, 3, 8, 8))


@pytest.mark.parametrize("form", FORMS)
def test_layers_compute_what_they_computed(form: Form, source: Path, tmp_path: Path) -> None:
    lowering = WeightLowering(source, SIGNATURE, form, tmp_path)
    assert lowering.units == UNITS
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    wanted, got = (lowering.open(frozenset(units)).run({"x": x})["y"] for units in ([], UNITS))
    assert 30 < snr(wanted, got) < 60
    lowering.write(tmp_path / "weights.onnx", frozenset(UNITS))
    assert (tmp_path / "weights.onnx").stat().st_size < 0.35 * source.stat().st_size
    said = {p.key: p.value for p in onnx.load(tmp_path / "weights.onnx").metadata_props}
    assert said[COMPUTES_KEY] == "int8 weights and fp32"
    kinds = [node.op_type for node in onnx.load(tmp_path / "weights.onnx").graph.node]
    assert kinds.count("MatMulNBits") == (3 if form == "products" else 0)
    assert kinds.count("DequantizeLinear") == (0 if form == "products" else 4)  # shared weights once


def test_what_is_kept_is_as_it_was(source: Path, tmp_path: Path) -> None:
    lowering = WeightLowering(source, SIGNATURE, "dequantize", tmp_path)
    lowering.write(tmp_path / "kept.onnx", frozenset({"tied"}))
    kinds = {i.name: i.data_type for i in onnx.load(tmp_path / "kept.onnx").graph.initializer}
    assert [name for name, kind in kinds.items() if kind == TensorProto.INT8] == ["g_int8_0"]
    assert kinds["g"] == TensorProto.FLOAT  # the other layer's


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "no.onnx", [helper.make_node("Relu", ["x"], ["y"], "r")], {}, (1, 10))
    with pytest.raises(UsageError, match="no layer with 256 weights or more"):
        WeightLowering(path, Signature((), ()), "products", tmp_path)


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, (12, 40), elements=st.floats(-1e4, 1e4, width=32)))
def test_a_weight_moves_by_half_a_step_at_most(weight: npt.NDArray[np.float32]) -> None:
    """Whatever the weights are: all zero, tiny, of one sign."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=1)]
        path = saved(Path(folder) / "w.onnx", nodes, {"w": weight}, (1, 40))
        for form in FORMS:
            WeightLowering(path, Signature((), ()), form, Path(folder)).write(
                path.with_name("q.onnx"), frozenset({"gemm"})
            )
            held = [numpy_helper.to_array(i) for i in onnx.load(path.with_name("q.onnx")).graph.initializer]
            integers = next(array for array in held if array.dtype in (np.int8, np.uint8)).astype(np.float64)
            scale = next(array for array in held if array.dtype == np.float32).astype(np.float64)
            if form == "products":
                back = ((integers - 128) * scale[:, :, None]).reshape(12, -1)[:, :40]
                steps = np.repeat(scale, 32, axis=1)[:, :40]
            else:
                back, steps = integers * scale[:, None], np.broadcast_to(scale[:, None], (12, 40))
            assert (np.abs(back - weight) <= steps * 0.5001).all()


def test_loops_keep_the_constants_that_they_read(tmp_path: Path) -> None:
    """A running sum, whose body reads a factor of the graph around it, in either low precision."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["row", "factor"], ["scaled"], "scale"),
            helper.make_node("Add", ["total", "scaled"], ["more"], "sum"),
            helper.make_node("Identity", ["more"], ["shown"], "show"),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (32,)) for n in ("total", "row")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (32,)) for n in ("more", "shown")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["rows"], "matmul"),
        helper.make_node("Scan", ["start", "rows"], ["end", "sums"], "scan", body=body, num_scan_inputs=1),
        helper.make_node("Greater", ["sums", "start"], ["over"], "over"),
        helper.make_node("Cast", ["over"], ["spikes"], "cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["spikes", "v"], ["many"], "matmul2"),
        helper.make_node("ReduceMean", ["many", "axes"], ["y"], "mean", keepdims=1),
    ]
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((32, 32)),
        "v": generator.standard_normal((32, 10)),
        "factor": np.ones(32) / 2,
    }
    held = {name: array.astype(np.float32) for name, array in weights.items()} | {"start": np.zeros(32, np.float32)}
    path = saved(tmp_path / "loop.onnx", nodes, held, (5, 32))
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    onnx.save(proto, path)
    signature = Signature((TensorSpec("x", "float32", (5, 32)),), (TensorSpec("y", "float32", (1, 10)),))
    x = generator.standard_normal((5, 32)).astype(np.float32)
    eight = WeightLowering(path, signature, "products", tmp_path)
    half = HalfLowering(path, signature, tmp_path, ())
    assert half.fixed == {"scan"}
    wanted = eight.open(frozenset()).run({"x": x})["y"]
    for lowering in (eight, half):
        assert snr(wanted, lowering.open(frozenset(lowering.units)).run({"x": x})["y"]) > 25
    assert close_bodies(proto.graph) == {"scan"}
    assert [i.name for a in proto.graph.node[1].attribute if a.name == "body" for i in a.g.initializer] == [
        "factor_of_body"
    ]
