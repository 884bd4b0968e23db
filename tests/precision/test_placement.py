"""Q/DQ pairs stand in front of what has weights and was chosen, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnx
import onnxruntime as ort

from edgedeploy.precision.placement import InputLowering
from edgedeploy.precision.qdq import Scheme
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (1, 4, 8, 8)),),
    (TensorSpec("y", "float32", (1, 4, 8, 8)), TensorSpec("z", "float32", (1, 4, 8, 2))),
)


def node(kind: str, name: str, inputs: str, output: str, **attributes: Any) -> Any:
    made = onnx.helper.make_node(kind, inputs.split(), [output], name, **attributes)
    module = name.rpartition("/")[0]
    if module:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", module, "call"]))
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two convolutions with activations, a residual sum that is an output, and a linear layer with a bias."""
    generator = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> Any:
        return onnx.numpy_helper.from_array(generator.normal(0, 0.3, shape).astype(np.float32), name)

    nodes = [
        node("Conv", "one/conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Sigmoid", "act/sigmoid", "c1", "s1"),
        node("Mul", "act/mul", "c1 s1", "m1"),
        node("Conv", "two/conv", "m1 w2", "c2", pads=[1, 1, 1, 1]),
        node("Add", "sum", "c2 m1", "y"),
        node("MatMul", "last/matmul", "y w3", "l1"),
        node("Add", "last/add", "l1 b3", "z"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", 1, (1, 4, 8, 8))],
        [value("y", 1, (1, 4, 8, 8)), value("z", 1, (1, 4, 8, 2))],
        [
            *(constant("w1", 4, 4, 3, 3), constant("b1", 4), constant("w2", 4, 4, 3, 3)),
            *(constant("w3", 8, 2), constant("b3", 2)),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 19)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "source.onnx")
    return tmp_path / "source.onnx"


def samples() -> list[Prepared]:
    slope = np.tile(np.linspace(-1, 1, 8, dtype=np.float32), (1, 4, 8, 1))
    return [Prepared(((slope * (i + 1)).astype(np.float32),), None) for i in range(4)]


@pytest.fixture
def lowering(source: Path, tmp_path: Path) -> InputLowering:
    made = InputLowering(source, SIGNATURE, Scheme("int8", symmetric=True, bias=False), tmp_path)
    made.calibrate(samples())
    return made


def written(lowering: InputLowering, units: Sequence[str], folder: Path) -> Any:
    lowering.write(folder / "placed.onnx", frozenset(units))
    proto = onnx.load(folder / "placed.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto.graph


def quantized_inputs(graph: Any) -> set[str]:
    made = {output: n for n in graph.node for output in n.output}
    takes = {n.name: [made[i].op_type for i in n.input if i in made] for n in graph.node}
    return {name for name, kinds in takes.items() if "DequantizeLinear" in kinds and "Quantize" not in name}


def run(path: Path) -> list[Any]:
    values: list[Any] = ort.InferenceSession(str(path)).run(None, {"x": samples()[2].tensors[0]})
    return values


def test_units_are_the_modules_with_weights(lowering: InputLowering) -> None:
    assert lowering.units == ["one", "two", "last"]


def test_pairs_are_in_front_of_weights_only(lowering: InputLowering, tmp_path: Path) -> None:
    graph = written(lowering, lowering.units, tmp_path)
    assert {n for n in quantized_inputs(graph) if "/" in n or n == "sum"} == {"one/conv", "two/conv", "last/matmul"}
    kinds = [n.op_type for n in graph.node]
    assert kinds.count("QuantizeLinear") == 3  # one for each activation that enters a weighted node
    assert kinds.count("DequantizeLinear") == 6
    assert [value.name for value in graph.output] == ["y", "z"]


def test_what_is_not_chosen_takes_float(lowering: InputLowering, tmp_path: Path) -> None:
    graph = written(lowering, ["two"], tmp_path)
    assert {n for n in quantized_inputs(graph) if "/" in n or n == "sum"} == {"two/conv"}
    names = {i.name for i in graph.initializer}
    assert {"w1", "b1", "w3", "b3"} <= names
    assert "w2" not in names


def test_with_nothing_chosen_it_is_the_float_graph(lowering: InputLowering, source: Path, tmp_path: Path) -> None:
    graph = written(lowering, [], tmp_path)
    assert not any("Quantize" in n.op_type for n in graph.node)
    for one, other in zip(run(source), run(tmp_path / "placed.onnx"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_int8_computes_about_the_same(lowering: InputLowering, source: Path, tmp_path: Path) -> None:
    written(lowering, lowering.units, tmp_path)
    for one, other in zip(run(source), run(tmp_path / "placed.onnx"), strict=True):
        error = np.abs(one - other).max()
        assert 1e-4 < error < 0.05 * np.abs(one).max()


def test_a_session_has_exactly_what_was_asked(lowering: InputLowering, source: Path) -> None:
    session = lowering.open(frozenset({"one"}))
    got = session.run({"x": samples()[2].tensors[0]})
    session.close()
    assert list(got) == ["y", "z"]
    assert 0 < np.abs(np.asarray(got["y"], np.float64) - run(source)[0]).max() < 0.2


def test_settling_keeps_nothing_more(lowering: InputLowering) -> None:
    assert lowering.settle(frozenset({"one"})) == {"one"}
