"""The OpenVINO exporter on small networks: what it writes computes what PyTorch computes, in the precision it says."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import onnx
import torch
from edgedeploy_openvino.runtime import OpenVINORuntime, openvino
from onnx import TensorProto, helper
from torch import nn

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import reference_session
from edgedeploy.errors import EdgeDeployError, ExportFailed, Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.exporter import Evidence, Exporter, Job, Prepares, Request, export
from edgedeploy.golden import Sample
from edgedeploy.model import Graph, Model, Source
from edgedeploy.runtime import TAP, Session
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

Exports = Callable[..., Artifact]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """``small("int8")``: the bundle of the small network in a precision, made once; do not change it."""
    made: dict[str, Artifact] = {}

    def make(precision: str) -> Artifact:
        if precision not in made:
            made[precision] = exported(model(), precision, tmp_path_factory.mktemp(precision))
        return made[precision]

    return make


# Precisions


@pytest.mark.parametrize(("precision", "lowest"), [("fp32", 110), ("fp16", 60), ("int8", 30)])
def test_every_precision_computes_what_pytorch_computes(precision: str, lowest: float, small: Exports) -> None:
    artifact, network = small(precision), model().graphs["main"].network
    session = OpenVINORuntime(threads=1).open(artifact.files, artifact.signatures)
    for sample in slopes(3):
        got = session.run({"x": sample})["y"]
        assert got.dtype == np.float32
        assert snr(network(torch.from_numpy(sample)).numpy(), got) > lowest
    assert all(golden.agreement[0].snr > lowest for golden in artifact.manifest.golden)


def test_smaller_types_make_smaller_weights(small: Exports) -> None:
    weights = [
        small(precision).manifest.files["graphs/main.bin"].size
        for precision in ("fp32", "fp16", "int8")  # beside the graph
    ]
    assert weights[1] < 0.55 * weights[0]
    assert weights[2] < 0.7 * weights[1]


def test_what_is_computed_in_is_read_from_the_kernels(small: Exports) -> None:
    """Weights stored in fp16 are computed with in fp32 on a CPU without fp16, whatever their layers are said to be."""
    half = "fp16" if "FP16" in capabilities() else "fp32"
    for precision, computed in (("fp32", "fp32"), ("fp16", half), ("int8", "int8")):
        assert opened(small(precision)).facts["computes_in"] == computed


@pytest.mark.parametrize("wanted", ["default", "bf16"])
def test_bf16_is_said_where_openvino_chooses_it(wanted: str, small: Exports) -> None:
    if "BF16" not in capabilities():
        pytest.skip("needs a CPU with bf16")
    artifact = small("fp32")
    session = OpenVINORuntime(threads=1, inference_precision=wanted).open(artifact.files, artifact.signatures)  # type: ignore[arg-type]
    assert session.facts["computes_in"] == "bf16"
    sample = slopes(3)[1]
    wanted_values = model().graphs["main"].network(torch.from_numpy(sample)).numpy()
    assert 20 < snr(wanted_values, session.run({"x": sample})["y"]) < 70


def test_a_module_kept_in_float_is_computed_in_float(tmp_path: Path) -> None:
    artifact = exported(model(), "int8", tmp_path, keep_float="body.0")
    assert "body.0.conv" in artifact.manifest.exporter.decisions["main"]["kept_in_float"]
    assert opened(artifact).facts["computes_in"] == "int8 75 %, fp32 25 % of 4 layers that multiply"


def test_int8_leaves_in_float_what_it_would_ruin(tmp_path: Path) -> None:
    """Positions in pixels and scores below one, taken by one layer, would share one scale."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.box, self.score = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)
            self.pick = nn.Conv2d(6, 6, 1, bias=False)
            self.pick.weight.data = torch.eye(6).reshape(6, 6, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.body(x))
            picked: torch.Tensor = self.pick(torch.cat([self.box(x) * 600 + 300, torch.sigmoid(self.score(x)) / 50], 1))
            return picked

    artifact = exported(model(Two(), gives=(1, 6, 32, 32)), "int8", tmp_path)
    decided = artifact.manifest.exporter.decisions["main"]
    assert decided["distance_all_lowered"] > 0.15 >= decided["distance"]
    assert decided["kept_in_float"] == ["pick"]
    assert 0 < decided["lowered"] < decided["units"]
    assert str(opened(artifact).facts["computes_in"]).startswith("int8")


# What a session shows and carries


def test_outputs_of_modules_are_those_of_pytorch(small: Exports) -> None:
    artifact, network, sample = small("fp32"), model().graphs["main"].network, slopes(3)[1]
    seen: dict[str, Array] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.numpy()}))
    with torch.inference_mode():
        network(torch.from_numpy(sample))
    session = OpenVINORuntime(threads=1).open_tapped(artifact.files, artifact.signatures)
    outputs = session.run({"x": sample})
    taps = {name.removeprefix(TAP): values for name, values in outputs.items() if name.startswith(TAP)}
    assert {"x", "stem.conv", "stem.act", "body.0.conv", "body.1.act", "head"} <= set(taps)
    seen["x"] = sample
    for name in taps.keys() & seen.keys():
        assert snr(seen[name], taps[name]) > 100, name
    assert snr(seen[""], outputs["y"]) > 100


def test_looking_into_int8_shows_its_noise_and_changes_nothing(small: Exports) -> None:
    artifact, sample = small("int8"), slopes(3)[1]
    tapped = OpenVINORuntime(threads=1).open_tapped(artifact.files, artifact.signatures)
    outputs = tapped.run({"x": sample})
    with torch.inference_mode():
        stem = model().graphs["main"].network.stem(torch.from_numpy(sample)).numpy()
    assert 25 < snr(stem, outputs[TAP + "stem.act"]) < 80
    assert tapped.facts["computes_in"] == "int8"
    assert np.array_equal(outputs["y"], opened(artifact).run({"x": sample})["y"])
    far = np.full_like(sample, 9)
    assert tapped.run({"x": far})[TAP + "x"].max() < 2  # it was calibrated on values up to 1


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_in_force(threads: int, small: Exports) -> None:
    artifact = small("fp32")
    facts = OpenVINORuntime(threads=threads).open(artifact.files, artifact.signatures).facts
    assert facts["threads"] == min(threads, len(os.sched_getaffinity(0)))
    assert facts["streams"] == 1
    assert facts["hint"] == "latency"
    assert facts["device"] == "CPU"
    assert facts["version"] == OpenVINORuntime.version()


def test_dynamic_shapes(tmp_path: Path) -> None:
    made = model(takes=("batch", 3, "height", "width"), gives=("batch", 4, "height", "width"))
    session = opened(exported(made, "fp32", tmp_path))
    for shape in ((1, 3, 32, 32), (3, 3, 16, 40)):
        sample = np.random.default_rng(0).random(shape, dtype=np.float32)
        wanted = made.graphs["main"].network(torch.from_numpy(sample)).detach().numpy()
        assert snr(wanted, session.run({"x": sample})["y"]) > 100


def test_state_is_carried_and_reset(tmp_path: Path) -> None:
    made, ones = adder(tmp_path / "adder.onnx"), np.ones((1, 2), np.float32)
    job = Job(made, Raw(), tmp_path, reference_session(made), (), lambda _: None)
    written = exporter("fp32").write(job)
    files = {name: tmp_path / file for name, file in written.files.items()}
    session = OpenVINORuntime(threads=1).open(files, written.signatures)
    assert [float(session.run({"x": ones})["y"][0, 0]) for _ in range(3)] == [1, 2, 3]
    session.reset()
    assert float(session.run({"x": ones})["y"][0, 0]) == 1


def test_outputs_are_the_callers(small: Exports) -> None:
    session = opened(small("fp32"))
    first, second = slopes(2)
    got = session.run({"x": first})["y"]
    before = got.copy()
    session.run({"x": second})
    assert np.array_equal(got, before)


# What an artifact needs


def test_requirements_and_decisions(small: Exports) -> None:
    assert small("fp32").manifest.requires == ("openvino>=2023.0",)
    assert small("int8").manifest.requires == ("openvino>=2023.3",)
    assert any("calibrated on 16 samples" in note for note in small("int8").manifest.notes)
    (unmet,) = device.unmet(small("fp32").manifest.requires, device.load("intel-n100"))
    assert not unmet.known  # the profile has OpenVINO, and does not say which
    (unmet,) = device.unmet(small("fp32").manifest.requires, device.load("galaxy-s24"))
    assert unmet.known


def test_int8_follows_the_instruction_set() -> None:
    made = {name: exporter("int8", board=device.load(name)) for name in ("intel-n100", "raspberry-pi-5")}
    assert {name: made[name].activations for name in made} == {"intel-n100": "uint8", "raspberry-pi-5": "int8"}  # type: ignore[attr-defined]
    assert not made["intel-n100"].reduce_range  # type: ignore[attr-defined]


def test_the_ladder_has_a_rung_in_between(small: Exports, tmp_path: Path) -> None:
    artifact, made = small("int8"), model()
    job = Job(made, Raw(), tmp_path, reference_session(made), Prepares(Raw(), slopes(16)), lambda _: None)
    (step,) = exporter("int8").steps(job, artifact.manifest.exporter.decisions)
    assert step.name == "ONNX int8"
    sample = slopes(3)[1]
    wanted = made.graphs["main"].network(torch.from_numpy(sample)).detach().numpy()
    assert 30 < snr(wanted, step.session.run({"x": sample})["y"]) < 70
    assert list(exporter("fp32").steps(job, {})) == []


# What cannot be


def test_an_operation_that_openvino_has_not_is_named_with_its_module(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.linalg.det(x)[:, :, None, None]  # type: ignore[no-any-return]

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.odd = nn.Conv2d(3, 4, 1), Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.first(x))  # type: ignore[no-any-return]

    with pytest.raises(ExportFailed, match=r"OpenVINO has no operation for Det of ONNX, in odd\. Write") as caught:
        exported(model(Outer()), "fp32", tmp_path)
    assert "No conversion rule found" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 30}, "opset 30 cannot be written: give 16 to 20"),
        ({"activation": "int8"}, "no option 'activation'. Did you mean 'activations'"),
        ({"activations": "uint4"}, "uint4"),
        ({"limit": 3}, "limit 3"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        exporter("int8", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "0 threads cannot run anything"),
        ({"hint": "latencies"}, "There is no hint 'latencies'. Did you mean 'latency'"),
        ({"device": "TPU"}, "There is no device 'TPU'"),
        ({"inference_precision": "f64"}, "There is no inference_precision 'f64'"),
    ],
)
def test_session_options_that_cannot_be(options: dict[str, Any], said: str, small: Exports) -> None:
    artifact = small("fp32")
    with pytest.raises(UsageError, match=said):
        OpenVINORuntime(**options).open(artifact.files, artifact.signatures)


def test_a_device_that_is_not_here_is_named(small: Exports) -> None:
    if any(name.startswith("NPU") for name in openvino().Core().available_devices):
        pytest.skip("this machine has an NPU")
    artifact = small("fp32")
    with pytest.raises(Unavailable, match=r"OpenVINO finds no NPU here, only CPU"):
        OpenVINORuntime(device="NPU").open(artifact.files, artifact.signatures)


def test_inputs_that_cannot_be(small: Exports) -> None:
    session = opened(small("fp32"))
    for inputs in ({}, {"z": slopes(1)[0]}, {"x": slopes(1)[0][:, :, :30]}, {"x": slopes(1)[0].astype(np.float64)}):
        with pytest.raises(UsageError):
            session.run(inputs)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new)) and None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("file", "harm", "kind", "said"),
    [
        ("main.xml", _cut, RunFailed, r"main\.xml is damaged: .*Export or copy it again"),
        ("main.xml", lambda path: path.write_bytes(b"\x7fELF" * 99), RunFailed, r"does not begin as an OpenVINO IR"),
        ("main.xml", lambda path: path.write_bytes(b""), RunFailed, r"does not begin as an OpenVINO IR"),
        ("main.xml", Path.unlink, RunFailed, r"main\.xml cannot be read: No such file"),
        ("main.xml", _replaced(b' version="11"', b' version="12"'), Incompatible, r"IR of version 12; OpenVINO .* 11"),
        ("main.xml", _replaced(b'"opset1"', b'"opset99"'), Incompatible, r"too old for main\.xml: .*opset99"),
        ("main.bin", _cut, RunFailed, r"main\.bin is damaged: with \d+ bytes it is shorter than main\.xml says"),
        ("main.bin", Path.unlink, RunFailed, r"main\.bin, which holds the weights of main\.xml, is missing"),
    ],
)
def test_damaged_and_foreign_files_are_one_sentence(
    file: str, harm: Callable[[Path], None], kind: type[Exception], said: str, small: Exports, tmp_path: Path
) -> None:
    folder = tmp_path / "graphs"
    shutil.copytree(small("fp32").path / "graphs", folder)
    harm(folder / file)
    with pytest.raises(kind, match=said) as caught:
        OpenVINORuntime().open({"main": folder / "main.xml"}, small("fp32").signatures)
    assert "\n" not in str(caught.value)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_graph_cut_anywhere_is_refused(share: float, small: Exports, tmp_path: Path) -> None:
    whole = small("fp32").path / "graphs"
    shutil.copy(whole / "main.bin", tmp_path)
    text = (whole / "main.xml").read_bytes()
    (tmp_path / "main.xml").write_bytes(text[: int(share * len(text))])
    with pytest.raises(EdgeDeployError):
        OpenVINORuntime().open({"main": tmp_path / "main.xml"}, small("fp32").signatures)


def test_a_manifest_of_another_graph_is_refused(small: Exports) -> None:
    signature = small("fp32").signatures["main"]
    other = dataclasses.replace(signature, inputs=(TensorSpec("z", "float32", (1, 3, 32, 32)),))
    with pytest.raises(Incompatible, match=r"main\.xml has no input 'z'"):
        OpenVINORuntime().open(small("fp32").files, {"main": other})


def test_importing_openvino_tells_nobody() -> None:
    """The package reports its import over the network where it finds the means."""
    code = (
        "import sys; from edgedeploy_openvino.runtime import openvino; openvino(); "
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A detector


@pytest.mark.slow
def test_a_detector(shared: Path, tmp_path: Path) -> None:
    """YOLOv8n at 160: fp32 to the bit that floats allow, and int8 that finds the same."""
    pytest.importorskip("ultralytics")
    from edgedeploy.model import InputShape, load
    from edgedeploy.tasks.image import read_image

    made = load(shared / "weights" / "yolov8n.pt", InputShape(size=(160, 160)))
    images = [read_image(path) for path in sorted((shared / "data" / "coco_val128" / "images").rglob("*.jpg"))[:8]]
    exact = exported(made, "fp32", tmp_path / "fp32", samples=images)
    assert all(golden.agreement[0].snr > 100 and (golden.distance or 0) < 1e-4 for golden in exact.manifest.golden)
    eight = exported(made, "int8", tmp_path / "int8", samples=images, keep_float="model.22", limit=0.3)  # no search
    assert eight.manifest.exporter.decisions["main"]["distance"] <= 0.3
    assert str(opened(eight).facts["computes_in"]).startswith("int8 ")


# Small networks


class Block(nn.Module):
    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(takes, gives, 3, padding=1), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))  # type: ignore[no-any-return]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = Block(3, 16), nn.Sequential(Block(16, 16), Block(16, 16))
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))  # type: ignore[no-any-return]


def model(
    network: nn.Module | None = None,
    takes: tuple[int | str, ...] = (1, 3, 32, 32),
    gives: tuple[int | str, ...] = (1, 4, 32, 32),
) -> Model:
    torch.manual_seed(0)
    network = (network or Small()).eval().requires_grad_(False)
    signature = Signature((TensorSpec("x", "float32", takes),), (TensorSpec("y", "float32", gives),))
    return Model("net", {"main": Graph(network, signature)}, Source("net", "factory", "0" * 64))


def adder(path: Path) -> Model:
    """Adds its input to what it has seen so far."""
    shape = [1, 2]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "s", "y", "t")}
    nodes = [helper.make_node("Add", ["x", "s"], ["y"]), helper.make_node("Identity", ["y"], ["t"])]
    graph = helper.make_graph(nodes, "adder", [values["x"], values["s"]], [values["y"], values["t"]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    signature = Signature(
        (TensorSpec("x", "float32", (1, 2)),),
        (TensorSpec("y", "float32", (1, 2)),),
        (StateSpec("s", "t", "float32", (1, 2)),),
    )
    return Model("net", {"main": Graph(path, signature)}, Source(str(path), "onnx", "0" * 64))


def exporter(precision: str, board: device.Device | None = None, **options: Any) -> Exporter:
    made: Exporter = plugins.find(plugins.EXPORTERS, "openvino").for_device(board, precision, options)
    return made


def exported(
    made: Model, precision: str, folder: Path, samples: Sequence[Sample] | None = None, **options: Any
) -> Artifact:
    chosen = samples or slopes(16)
    evidence = Evidence(chosen, "mine", CalibrationRecord("mine", len(chosen), "0" * 64))
    return export(made, Request(exporter(precision, **options), evidence), folder)


def opened(artifact: Artifact) -> Session:
    return OpenVINORuntime(threads=1).open(artifact.files, artifact.signatures)


def slopes(count: int) -> list[Any]:
    y, x = np.mgrid[:32, :32] / 31
    return [np.stack([x * i / count, y, 1 - x])[np.newaxis].astype(np.float32) for i in range(1, count + 1)]


def snr(wanted: Array, got: Array) -> float:
    """In dB."""
    signal, other = wanted.astype(np.float64), got.astype(np.float64)
    noise = np.linalg.norm(signal - other)
    return float(20 * np.log10(np.linalg.norm(signal) / noise)) if noise else float("inf")


def capabilities() -> list[str]:
    return list(openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
