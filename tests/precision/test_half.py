"""fp16 typed graphs: what fits becomes fp16, what leaves its range on real inputs stays fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxconverter_common")

import torch
from torch import nn

from edgedeploy.capture import to_onnx
from edgedeploy.model import Graph
from edgedeploy.precision.half import LARGEST, HalfLowering
from edgedeploy.precision.qdq import QdqLowering, Scheme
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 3, 16, 16)),), (TensorSpec("y", "float32", (1, 4, 16, 16)),))


class Blocks(nn.Module):
    """Three convolutions; between the first two, values are ``gain`` times larger than before and after."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.wide(self.first(x) * self.gain) / self.gain
        result: torch.Tensor = self.last(torch.relu(inner))
        return result


def lowering(tmp_path: Path, gain: float) -> HalfLowering:
    torch.manual_seed(0)
    source = tmp_path / "float.onnx"
    to_onnx(Graph(Blocks(gain).eval(), SIGNATURE), source, 18)
    generator = np.random.default_rng(0)
    samples = [Prepared((generator.random((1, 3, 16, 16), np.float32),)) for _ in range(3)]
    return HalfLowering(source, SIGNATURE, tmp_path, samples)


def result(
    lowering: HalfLowering | QdqLowering, lowered: frozenset[str], inputs: dict[str, Array]
) -> npt.NDArray[np.float32]:
    return lowering.open(lowered).run(inputs)["y"].astype(np.float32)


def test_everything_fits(tmp_path: Path) -> None:
    half = lowering(tmp_path, 1)
    assert half.wide == frozenset()
    assert {"first", "wide", "last"} <= set(half.units)
    half.write(tmp_path / "half.onnx", frozenset(half.units))
    proto = onnx.load(tmp_path / "half.onnx")
    weights = {i.data_type for i in proto.graph.initializer if len(i.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)} == {onnx.TensorProto.FLOAT}


def test_what_leaves_the_range_of_fp16_stays_fp32(tmp_path: Path) -> None:
    half = lowering(tmp_path, 3e5)
    assert "wide" in half.wide
    assert not {"last"} & half.wide
    settled = half.settle(frozenset())
    assert settled == half.wide
    inputs: dict[str, Array] = {"x": np.ones((1, 3, 16, 16), np.float32)}
    everything = frozenset(half.units)
    wanted, kept, overflown = (result(half, part, inputs) for part in (frozenset(), everything - settled, everything))
    assert np.abs(kept - wanted).max() < 0.01 * np.abs(wanted).max()
    assert not np.isfinite(overflown).all() or np.abs(overflown - wanted).max() > np.abs(kept - wanted).max()


def test_what_stays_fp32_keeps_its_weights_to_the_last_bit(tmp_path: Path) -> None:
    half = lowering(tmp_path, 1)
    half.write(tmp_path / "half.onnx", frozenset(half.units) - {"last"})
    floats, mixed = (onnx.load(tmp_path / name).graph for name in ("float.onnx", "half.onnx"))
    exact = {onnx.numpy_helper.to_array(i).tobytes() for i in floats.initializer if len(i.dims) == 4}
    kept = [onnx.numpy_helper.to_array(i) for i in mixed.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert sum(weight.ndim == 4 for weight in kept) == 1
    assert all(weight.tobytes() in exact for weight in kept if weight.ndim == 4)
    onnx.checker.check_model(onnx.load(tmp_path / "half.onnx"))


def test_nothing_passes_through_fp16_between_modules_that_stay_fp32(tmp_path: Path) -> None:
    half = lowering(tmp_path, 3e5)
    half.write(tmp_path / "none.onnx", frozenset())
    assert not [node for node in onnx.load(tmp_path / "none.onnx").graph.node if node.op_type == "Cast"]
    inputs: dict[str, Array] = {"x": np.ones((1, 3, 16, 16), np.float32)}
    torch.manual_seed(0)
    wanted = Blocks(3e5).eval()
    exact = wanted(torch.ones(1, 3, 16, 16)).detach().numpy()
    np.testing.assert_allclose(result(half, frozenset(), inputs), exact, atol=1e-4 * np.abs(exact).max())


def test_the_headroom_is_for_sums_inside_a_layer() -> None:
    assert float(np.finfo(np.float16).max) / LARGEST >= 4


@pytest.mark.parametrize(
    ("scheme", "kinds"),
    [
        (Scheme("uint8"), {onnx.TensorProto.UINT8}),
        (Scheme("int8", symmetric=True, bias=False), {onnx.TensorProto.INT8}),
        (Scheme("uint16"), {onnx.TensorProto.UINT16}),
    ],
)
def test_int8_schemes_are_what_they_say_and_keep_what_is_asked(scheme: Scheme, kinds: set[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = tmp_path / "float.onnx"
    to_onnx(Graph(Blocks(1).eval(), SIGNATURE), source, 18 if scheme.activations != "uint16" else 20)
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    samples = [Prepared((np.broadcast_to(ramp * s, (1, 3, 16, 16)).astype(np.float32),)) for s in (0.5, 0.8, 1.0)]
    qdq = QdqLowering(source, SIGNATURE, scheme, tmp_path)
    qdq.calibrate(samples)
    inputs: dict[str, Array] = {"x": samples[0].tensors[0]}
    wanted, got = (result(qdq, lowered, inputs) for lowered in (frozenset(), frozenset(qdq.units)))
    assert 0 < np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    graph = onnx.load(tmp_path / "trial.onnx").graph
    constants = {i.name: i.data_type for i in graph.initializer}
    assert {constants[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"} == kinds
    integers = {
        constants[n.input[0]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
    }
    assert (onnx.TensorProto.INT32 in integers) == scheme.bias
    qdq.write(tmp_path / "kept.onnx", frozenset(qdq.units) - {"wide"})
    kept = onnx.load(tmp_path / "kept.onnx").graph
    made = {name for node in kept.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = {n.input[1] in made for n in kept.node if n.op_type == "Conv"}
    assert convolutions == {True, False}
