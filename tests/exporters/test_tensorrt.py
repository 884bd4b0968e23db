"""The TensorRT exporter on small networks: build bundles whose typed graphs are checked here and parse in TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
import torch
from edgedeploy_tensorrt import TensorRT
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt.plan import Shapes
from edgedeploy_tensorrt.runtime import TensorRTRuntime
from torch import nn

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import EagerSession, to_onnx
from edgedeploy.errors import ExportFailed, Unavailable, UsageError
from edgedeploy.exporter import Evidence, Job, Prepares, Request, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Array, Signature, TensorSpec

Bundles = Callable[..., Artifact]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2))
        self.head = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(self.stem(x)))
        return result


class Wide(Net):
    """Values in the stem are beyond what fp16 can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(self.stem(x * 1e6) / 1e6))
        return result


class Volume(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.linalg.det(x[..., :3, :3])
        return result


def model(network: nn.Module, batch: int | str = 1, out: tuple[int | str, ...] = (4, 7, 5)) -> Model:
    signature = Signature(
        (TensorSpec("x", "float32", (batch, 3, 16, 16)),), (TensorSpec("y", "float32", (batch, *out)),)
    )
    graph = Graph(network.eval().requires_grad_(False), signature)
    return Model("tiny", {"main": graph}, Source("tiny", "factory", "0" * 64))


def samples(count: int = 6) -> list[tuple[Array, ...]]:
    slope = np.tile(np.linspace(-1, 1, 16, dtype=np.float32), (1, 3, 16, 1))
    return [((slope * (i + 1) / count + 0.1 * i).astype(np.float32),) for i in range(count)]


def bundle(made: Model, exporter: TensorRT, folder: Path) -> Artifact:
    evidence = Evidence(samples(), "slopes", CalibrationRecord("mine", 6, "0" * 64))
    return export(made, Request(exporter, evidence), folder)


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Bundles for a Jetson, by precision and options, made once."""
    made: dict[object, Artifact] = {}

    def get(precision: str, **options: Any) -> Artifact:
        key = (precision, *sorted(options.items()))
        if key not in made:
            exporter = TensorRT.for_device(device.load("jetson-orin-nano"), precision, options)
            made[key] = bundle(model(Net()), exporter, tmp_path_factory.mktemp(precision))
        return made[key]

    return get


def types(artifact: Artifact) -> set[int]:
    proto = onnx.shape_inference.infer_shapes(onnx.load(artifact.files["main"]))
    return {v.type.tensor_type.elem_type for v in proto.graph.value_info}


FLOAT, HALF, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8


@pytest.mark.parametrize(("precision", "lowest"), [("fp32", 100), ("fp16", 55)])
def test_the_typed_graph_computes_what_pytorch_computes(precision: str, lowest: float, orin: Bundles) -> None:
    manifest = orin(precision).manifest
    assert manifest.requires == ("tensorrt>=10.3,<11", "sm=87")
    assert (manifest.exporter.runtime, manifest.exporter.rehearsal) == ("tensorrt", "onnxruntime")
    assert all(one.worst_snr > lowest for golden in manifest.golden for one in golden.agreement)
    assert "onnxruntime" in manifest.golden_by


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_int8_computes_about_what_pytorch_computes(rest: str, orin: Bundles) -> None:
    artifact = orin("int8", rest=rest)
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")(optimization="none").open(
        artifact.files, artifact.signatures
    )
    for (inputs,) in samples():
        got: Any = session.run({"x": inputs})["y"]
        wanted: Any = EagerSession(model(Net())).run({"x": inputs})["y"]
        assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 40
    session.close()


def test_precision_is_in_the_graph(orin: Bundles) -> None:
    assert types(orin("fp32")) == {FLOAT}
    assert types(orin("fp16")) == {HALF}
    assert {INT8, HALF} <= types(orin("int8", rest="fp16"))
    assert {INT8, FLOAT} <= types(orin("int8", rest="fp32"))
    assert HALF not in types(orin("int8", rest="fp32"))
    for artifact in (orin("fp32"), orin("fp16"), orin("int8", rest="fp16")):
        graph = onnx.load(artifact.files["main"]).graph
        assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {FLOAT}


def test_int8_is_of_the_kind_that_tensorrt_takes(orin: Bundles) -> None:
    graph = onnx.load(orin("int8", rest="fp16").files["main"]).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_the_plan_lies_beside_the_graph(orin: Bundles) -> None:
    artifact = orin("fp16")
    plan = plans.read(artifact.files["main"])
    assert (plan.flavour, plan.precision, plan.strongly_typed) == ("tensorrt", "fp16", True)
    assert plan.requires == artifact.manifest.requires
    assert plan.ahead == ()
    assert "graphs/main.build.json" in artifact.manifest.files


def test_tensorrts_own_parser_has_read_it(orin: Bundles) -> None:
    pytest.importorskip("tensorrt_rtx")
    for artifact in (orin("fp32"), orin("fp16"), orin("int8", rest="fp16")):
        decided = artifact.manifest.exporter.decisions["main"]
        assert decided["parsed_by"].startswith("TensorRT for RTX ")
        assert decided["layers"] > 5


def test_modules_can_be_kept_in_float(orin: Bundles) -> None:
    decided = orin("int8", keep_float=("body",)).manifest.exporter.decisions["main"]
    assert "body.0" in decided["kept_in_float"]
    assert "body.0" in decided["kept_in_fp32"]


def test_values_that_leave_fp16_keep_their_layers_in_fp32_on_a_dla_too(tmp_path: Path) -> None:
    """TensorRT 10 takes no strongly typed graph for the DLA of an Orin: it is told which nodes are FP32."""
    exporter = TensorRT.for_device(device.load("jetson-agx-orin"), "fp16", {"dla_core": 0})
    artifact = bundle(model(Wide()), exporter, tmp_path)
    assert "stem.0" in artifact.manifest.exporter.decisions["main"]["kept_in_float"]
    assert types(artifact) == {FLOAT, HALF}
    assert all(one.worst_snr > 40 for golden in artifact.manifest.golden for one in golden.agreement)
    plan = plans.read(artifact.files["main"])
    assert (plan.strongly_typed, plan.dla_core) == (False, 0)
    names = {node.name: node.op_type for node in onnx.load(artifact.files["main"]).graph.node}
    assert set(plan.float_layers) < set(names)
    assert "Conv" in {names[name] for name in plan.float_layers}
    assert any("held to fp32" in note for note in artifact.manifest.notes)


def test_the_dla_takes_no_dynamic_batch(tmp_path: Path) -> None:
    exporter = TensorRT.for_device(device.load("jetson-agx-orin"), "fp16", {"dla_core": 0})
    with pytest.raises(UsageError, match="DLA takes one shape only"):
        bundle(model(Net(), "batch"), exporter, tmp_path)


def test_engines_ahead_are_in_the_bundle(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = {"flavour": "rtx", "aot": "86,120", "shapes": "batch=1:2:4"}
    artifact = bundle(model(Net(), "batch"), TensorRT.for_device(device.load("x86-server"), "fp32", options), tmp_path)
    plan = plans.read(artifact.files["main"])
    assert plan.shapes == {"x": Shapes((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))}
    assert [(one.sm, one.file) for one in plan.ahead] == [(86, "main.sm86.engine"), (120, "main.sm120.engine")]
    listed = set(artifact.manifest.files)
    assert {f"graphs/main.sm{sm}.{kind}" for sm in (86, 120) for kind in ("engine", "build.log")} <= listed
    assert [one["sm"] for one in artifact.manifest.exporter.decisions["main"]["engines"]] == [86, 120]
    assert artifact.manifest.requires == ("tensorrt-rtx>=1",)


def test_an_unsupported_operator_is_named_with_the_pytorch_module(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(3, 4, 3))
    network.add_module("volume", Volume())
    exporter = TensorRT.for_device(device.load("jetson-orin-nano"), "fp32", {})
    with pytest.raises(ExportFailed, match="does not support Det in 'volume'"):
        bundle(model(network, out=(4,)), exporter, tmp_path)
    assert not (tmp_path / "tiny.edge").exists()


def test_an_onnx_file_is_taken_as_it_is_and_its_opset_is_checked(tmp_path: Path) -> None:
    made = model(Net())
    to_onnx(made.graphs["main"], tmp_path / "given.onnx", 18)
    given = Model("given", {"main": Graph(tmp_path / "given.onnx", made.graphs["main"].signature)}, made.source)
    exporter = TensorRT.for_device(device.load("jetson-orin-nano"), "fp32", {})
    assert bundle(given, exporter, tmp_path).manifest.exporter.decisions["main"]["parsed_by"]
    proto = onnx.load(tmp_path / "given.onnx")
    proto.opset_import[0].version = 21
    onnx.save(proto, tmp_path / "given.onnx")
    with pytest.raises(UsageError, match="of opset 21, and this TensorRT reads up to 20"):
        bundle(given, exporter, tmp_path)


def test_the_steps_between_are_made_again_without_a_search(orin: Bundles, tmp_path: Path) -> None:
    made, artifact = model(Net()), orin("int8", rest="fp16")
    said: list[str] = []
    inputs = samples()
    job = Job(made, Raw(), tmp_path, EagerSession(made), Prepares(Raw(), inputs), said.append)
    exporter = TensorRT.for_device(device.load("jetson-orin-nano"), "int8", {})
    found: list[tuple[str, Any]] = []
    for step in exporter.steps(job, artifact.manifest.exporter.decisions):
        found.append((step.name, step.session.run({"x": inputs[2][0]})["y"]))
        step.session.close()
    assert [name for name, _ in found] == ["ONNX in fp32", "ONNX in int8"]
    assert not any("trial" in text for text in said)
    wanted: Any = EagerSession(made).run({"x": inputs[2][0]})["y"]
    np.testing.assert_allclose(found[0][1], wanted, atol=1e-5)
    error = np.abs(found[1][1] - wanted).max()
    assert 1e-5 < error < 0.02 * np.abs(wanted).max()


def test_where_no_gpu_is_opening_says_so_and_the_rehearsal_runs(orin: Bundles) -> None:
    from edgedeploy.opening import open_artifact_here

    artifact = orin("fp16")
    try:
        TensorRTRuntime().open(artifact.files, artifact.signatures).close()
    except Unavailable as error:
        assert any(word in str(error) for word in ("pip install", "no NVIDIA GPU", "cannot be built on this machine"))
    else:
        pytest.skip("this machine is the device")
    session = open_artifact_here(artifact)
    assert "tensorrt" in str(session.facts["emulated"])
    assert session.run({"x": samples()[0][0]})["y"].shape == (1, 4, 7, 5)
    session.close()
