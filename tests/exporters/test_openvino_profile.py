"""OpenVINO's performance counters, joined with what its executable graph says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnx")

from edgedeploy_openvino.runtime import OpenVINORuntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper, save  # noqa: E402

from edgedeploy.cost import graph_cost  # noqa: E402
from edgedeploy.roofline import Roofs, join  # noqa: E402
from edgedeploy.runtime import PROFILED_PASSES, Profile  # noqa: E402
from edgedeploy.tensors import Signature, TensorSpec  # noqa: E402

SHAPE = (1, 16, 32, 32)
SIGNATURE = Signature((TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A convolution and its Swish twice, with Q/DQ before each in int8."""
    quantised, at = request.param == "int8", "x"
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"s": np.float32(0.02), "z": np.uint8(128), "z_w": np.int8(0)}
    nodes = []

    def add(kind: str, *inputs: str, out: str) -> str:
        attributes = {"pads": [1] * 4} if kind == "Conv" else {}
        nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    for i in range(2):
        weights = f"w{i}"
        constants[weights] = rng.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32)
        if quantised:
            constants[weights] = rng.integers(-127, 127, (16, 16, 3, 3)).astype(np.int8)
            weights = add("DequantizeLinear", weights, "s", "z_w", out=f"d{i}")
            at = add("DequantizeLinear", add("QuantizeLinear", at, "s", "z", out=f"q{i}"), "s", "z", out=f"a{i}")
        made = add("Conv", at, weights, out=f"conv{i}")
        at = add("Mul", made, add("Sigmoid", made, out=f"sigmoid{i}"), out="y" if i else "swish0")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    folder = tmp_path_factory.mktemp(request.param)
    imports = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=imports, ir_version=9), folder / "m.onnx")
    openvino.save_model(openvino.convert_model(str(folder / "m.onnx")), folder / "m.xml", compress_to_fp16=False)
    return request.param, folder / "m.xml"


def profiled(path: Path) -> Profile:
    inputs = {"x": np.ones(SHAPE, np.float32)}
    return OpenVINORuntime(threads=1).profile({"main": path}, {"main": SIGNATURE}, inputs, "main")


def test_layers_lead_back_to_the_file(bundle: tuple[str, Path]) -> None:
    precision, path = bundle
    profile = profiled(path)
    assert profile.passes >= PROFILED_PASSES
    convolutions = [node for node in profile.nodes if node.kind == "Convolution"]
    assert [node.dtype for node in convolutions] == [precision] * 2
    assert any("swish0" in node.covers for node in convolutions)
    weights = (1 if precision == "int8" else 4) * 16 * 16 * 9
    assert all(node.bytes is not None and node.bytes > weights for node in convolutions)
    cost = graph_cost(path)
    line = join(cost, profile, Roofs("here", "cpu"), profile.seconds)
    matched = sum(node.flops or 0 for node in line.nodes)
    assert matched == pytest.approx(cost.flops, rel=0.05)


def test_what_only_quantises_is_called_so(bundle: tuple[str, Path]) -> None:
    precision, path = bundle
    kinds = [node.kind for node in profiled(path).nodes]
    assert ("FakeQuantize" in kinds) == (precision == "int8")
    line = join(graph_cost(path), profiled(path), Roofs("here", "cpu"), 1.0)
    assert ("conversion" in {node.bound for node in line.nodes}) == (precision == "int8")


def test_what_is_opened_otherwise_does_not_count(bundle: tuple[str, Path]) -> None:
    profiled(bundle[1])
    session = OpenVINORuntime(threads=1).open({"main": bundle[1]}, {"main": SIGNATURE})
    assert session._graphs["main"].compiled.get_property("PERF_COUNT") in (False, "NO")  # type: ignore[attr-defined]
    session.close()
