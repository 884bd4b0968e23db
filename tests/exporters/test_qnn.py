"""The QNN exporter on small networks: compiled for a Hexagon, run on its simulator, held against PyTorch."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_qnn")
if platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("the simulator is for x86", allow_module_level=True)

import onnx
import torch
from edgedeploy_qnn.compiler import SOC_MODELS, compile_graph
from edgedeploy_qnn.runtime import SIMULATOR, QnnRuntime, provider, quiet
from onnx import TensorProto, helper
from torch import nn

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import reference_session
from edgedeploy.errors import ExportFailed, Incompatible, RunFailed, UsageError
from edgedeploy.exporter import Evidence, Exporter, Job, Prepares, Request, export
from edgedeploy.golden import Sample
from edgedeploy.model import Graph, Model, Source
from edgedeploy.runtime import Carrying, Session
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

Exports = Callable[..., Artifact]
S24, S25 = device.load("galaxy-s24"), device.load("galaxy-s25")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """``small("int8")``: the bundle of the small network for a Galaxy S24, made once; do not change it."""
    made: dict[str, Artifact] = {}

    def make(precision: str, **options: Any) -> Artifact:
        key = f"{precision}{options}"
        if key not in made:
            made[key] = exported(model(), precision, tmp_path_factory.mktemp(precision), **options)
        return made[key]

    return make


# Precisions


@pytest.mark.parametrize(
    ("precision", "options", "lowest", "highest", "computed"),
    [
        ("fp16", {}, 45, 90, "fp16"),
        ("int8", {}, 30, 55, "int8"),
        ("int8", {"activations": "uint16"}, 45, 90, "int8 weights with uint16 activations"),
    ],
)
def test_every_precision_computes_what_pytorch_computes(
    precision: str, options: dict[str, Any], lowest: float, highest: float, computed: str, small: Exports
) -> None:
    artifact, network = small(precision, **options), model().graphs["main"].network
    session = opened(artifact)
    for sample in slopes(3):
        got = session.run({"x": sample})["y"]
        assert got.dtype == np.float32
        assert lowest < snr(network(torch.from_numpy(sample)).numpy(), got) < highest
    facts = session.facts
    assert facts["computes_in"] == computed
    assert (facts["htp"], facts["nodes_on_htp"], facts["nodes_on_cpu"]) == (75, 11, 0)
    assert (facts["runtime"], facts["threads"], facts["version"]) == ("qnn", 1, QnnRuntime.version())


def test_it_is_said_that_a_simulator_computes(small: Exports) -> None:
    artifact = small("fp16")
    assert opened(artifact).facts["emulated"] == SIMULATOR
    assert artifact.manifest.golden_by == SIMULATOR


def test_what_is_decided_is_recorded(small: Exports) -> None:
    decided = small("int8").manifest.exporter.decisions["main"]
    assert decided["soc"] == "SM8650 (HTP 75)"
    assert (decided["partitions"], decided["nodes_on_htp"], decided["nodes_on_cpu"]) == (1, 11, [])
    assert abs(decided["distance_compiled"] - decided["distance"]) < 0.01  # the simulator, and ONNX Runtime on the CPU
    assert small("fp16").manifest.exporter.decisions["main"]["distance_compiled"] < 0.01


def test_a_module_kept_in_float_is_computed_in_fp16(tmp_path: Path) -> None:
    artifact = exported(model(), "int8", tmp_path, keep_float="body.0")
    assert {"body.0.conv", "body.0.act"} <= set(artifact.manifest.exporter.decisions["main"]["kept_in_float"])
    assert opened(artifact).facts["computes_in"] == "int8 and fp16"


def test_compiled_for_the_device_that_was_named(small: Exports, tmp_path: Path) -> None:
    assert small("fp16").manifest.requires == ("qnn", "htp=75")
    assert device.unmet(small("fp16").manifest.requires, S24) == ()
    (unmet,) = device.unmet(small("fp16").manifest.requires, S25)
    assert unmet.known
    assert "htp=79" in unmet.reason
    other = exported(model(), "fp16", tmp_path, board=S25)
    assert other.manifest.requires == ("qnn", "htp=79")
    assert other.manifest.exporter.decisions["main"]["soc"] == "SM8750 (HTP 79)"


@pytest.mark.parametrize("htp", sorted(SOC_MODELS))
def test_the_table_of_processors_is_what_qnn_makes_of_it(htp: int, tmp_path: Path) -> None:
    """`Qnn` refuses a binary for another processor than it asked for."""
    made = adder(tmp_path / "adder.onnx")
    job = Job(made, Raw(), tmp_path, reference_session(made), (), lambda _: None)
    written = exporter("fp16", board=None, htp=htp).write(job)
    assert f"(HTP {htp})" in written.decisions["main"]["soc"]


# Parts that the HTP does not take


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 4, 1), Inner(), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.first(x)))  # type: ignore[no-any-return]


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.linalg.det(x)[:, :, None, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_stays_on_the_cpu_is_named_with_its_module(precision: str, tmp_path: Path) -> None:
    artifact = exported(model(Odd()), precision, tmp_path, limit=1.0)
    decided = artifact.manifest.exporter.decisions["main"]
    assert decided["nodes_on_cpu"] == ["Det in inner"]
    assert decided["partitions"] == 2
    assert any("1 of 5 nodes of graph 'main' stay on the CPU: Det in inner" in n for n in artifact.manifest.notes)
    facts = opened(artifact).facts
    assert (facts["nodes_on_htp"], facts["nodes_on_cpu"]) == (4, 1)


def test_a_graph_of_which_the_htp_takes_nothing_is_refused(tmp_path: Path) -> None:
    class Only(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.det(x)  # type: ignore[no-any-return]

    with pytest.raises(ExportFailed, match=r"QNN compiles nothing of this graph for HTP 75") as caught:
        exported(model(Only(), gives=(1, 3)), "fp16", tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_values_that_fp16_does_not_hold_are_noticed(tmp_path: Path) -> None:
    """The HTP saturates: there is no infinity to see."""

    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e3 * 1e3 * 1e-3 * 1e-3

    with pytest.raises(ExportFailed, match=r"fp16 moves the results by \d\.\d+ .*65504"):
        exported(model(Large(), gives=(1, 3, 32, 32)), "fp16", tmp_path)


def test_a_binary_that_does_not_compute_its_graph_is_noticed(tmp_path: Path) -> None:
    """QNN 2.51 gets a SiLU on 10 x 10 values of 16 bits wrong: without a note, nobody would know."""
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.SiLU(), nn.Conv2d(16, 16, 1))
    made = model(network, takes=(1, 3, 10, 10), gives=(1, 16, 10, 10))
    samples = [np.ascontiguousarray(sample[:, :, 2::3, 2::3]) for sample in slopes(8)]
    artifact = exported(made, "int8", tmp_path, samples=samples, activations="uint16", limit=1.0)
    decided, notes = artifact.manifest.exporter.decisions["main"], artifact.manifest.notes
    noticed = any("QNN does not compute it as written" in note for note in notes)
    assert decided["distance"] < 0.02
    assert noticed == (decided["distance_compiled"] > 0.1)
    if version("onnxruntime-qnn") == "2.7.0":
        assert noticed


# What a session carries


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_state_is_carried_in_fp16_and_reset(precision: str, tmp_path: Path) -> None:
    made, ones = adder(tmp_path / "adder.onnx"), np.ones((1, 2), np.float32)
    job = Job(made, Raw(), tmp_path / "out", reference_session(made), (), lambda _: None)
    job.directory.mkdir()
    written = exporter(precision).write(job)
    (note,) = [note for note in written.notes if "carries state, and is computed in fp16" in note]
    assert ("instead of int8" in note) == (precision == "int8")
    session = QnnRuntime().open({"main": job.directory / written.files["main"]}, written.signatures)
    assert isinstance(session, Carrying)
    assert [float(session.run({"x": ones})["y"][0, 0]) for _ in range(3)] == pytest.approx([1, 2, 3], abs=1e-3)
    (name,) = session.state()
    session.restore({name: np.full((1, 2), 2046, np.float32)})
    assert [round(float(session.run({"x": ones})["y"][0, 0])) for _ in range(2)] == [2047, 2048]
    session.restore({name: np.full((1, 2), 9999, np.float32)})
    assert len({float(session.run({"x": ones})["y"][0, 0]) for _ in range(4)}) == 1  # as is noted
    session.reset()
    assert float(session.run({"x": ones})["y"][0, 0]) == pytest.approx(1, abs=1e-3)


def test_two_sessions_at_once_and_the_provider_asked_for_twice(small: Exports) -> None:
    first, second, sample = opened(small("fp16")), opened(small("int8")), slopes(3)[1]
    assert provider()[0] is provider()[0]
    assert snr(first.run({"x": sample})["y"], second.run({"x": sample})["y"]) > 30


def test_the_ladder_has_a_rung_in_between(small: Exports, tmp_path: Path) -> None:
    made, sample = model(), slopes(3)[1]
    wanted = made.graphs["main"].network(torch.from_numpy(sample)).numpy()
    for precision, lowest, highest in (("fp16", 50, 90), ("int8", 30, 60)):
        (tmp_path / precision).mkdir()
        job = Job(
            made, Raw(), tmp_path / precision, reference_session(made), Prepares(Raw(), slopes(16)), lambda _: None
        )
        (step,) = exporter(precision).steps(job, small(precision).manifest.exporter.decisions)
        assert step.name == f"ONNX {precision}"
        assert "emulated" not in step.session.facts
        assert lowest < snr(wanted, step.session.run({"x": sample})["y"]) < highest


def test_nothing_is_printed(small: Exports) -> None:
    """Qualcomm's libraries print to standard output when they are used first."""
    code = f"""
import numpy as np
from edgedeploy.artifact import Artifact
from edgedeploy_qnn.runtime import QnnRuntime
artifact = Artifact.open({str(small("fp16").path)!r})
QnnRuntime().open(artifact.files, artifact.signatures).run({{"x": np.zeros((1, 3, 32, 32), np.float32)}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_quiet_gives_the_streams_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet():
        os.write(1, b"noise")
        os.write(2, b"noise")
        raise KeyError
    os.write(1, b"out")
    os.write(2, b"error")
    assert capfd.readouterr() == ("out", "error")


# What cannot be


def test_a_device_without_a_hexagon_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The profile of intel-n100 lists no version of a Hexagon.* qnn cannot"):
        exporter("fp16", board=device.load("intel-n100"))
    with pytest.raises(UsageError, match=r"name a device that has one, such as galaxy-s24, or add htp="):
        exporter("fp16", board=None)
    assert exporter("fp16", board=device.load("intel-n100"), htp=73).htp == 73  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("precision", "options", "said"),
    [
        ("fp32", {}, "qnn has no precision 'fp32'. Known: fp16, int8"),
        ("fp16", {"htp": 70}, "cannot compile for HTP 70; known are 68, 69, 73"),
        ("fp16", {"opset": 21}, "opset 21 cannot be written"),
        ("int8", {"activations": "int8"}, "activations"),
        ("int8", {"activation": "uint16"}, "Did you mean 'activations'"),
    ],
)
def test_options_that_cannot_be(precision: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        exporter(precision, **options)


def test_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    made = model(takes=("batch", 3, 32, 32), gives=("batch", 4, 32, 32))
    with pytest.raises(UsageError, match=r"fixed shapes only, but 'x' of graph 'main' has a dynamic batch"):
        exported(made, "fp16", tmp_path)


def test_inputs_and_threads_that_cannot_be(small: Exports) -> None:
    session = opened(small("fp16"))
    for inputs in ({}, {"z": slopes(1)[0]}, {"x": slopes(1)[0][:, :, :30]}, {"x": slopes(1)[0].astype(np.float64)}):
        with pytest.raises(UsageError):
            session.run(inputs)
    with pytest.raises(UsageError, match="0 threads"):
        QnnRuntime(threads=0).open(small("fp16").files, small("fp16").signatures)


def _cut_context(path: Path) -> None:
    proto = onnx.load(path)
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == "ep_cache_context":
            attribute.s = attribute.s[: len(attribute.s) // 2]
    onnx.save(proto, path)


def _plain(path: Path) -> None:
    graph = adder(path).graphs["main"]
    assert graph.network == path


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), r"QNN cannot load main\.onnx: .*Protobuf"),
        (lambda path: path.write_bytes(b""), r"main\.onnx"),
        (Path.unlink, r"QNN cannot load main\.onnx: .*doesn't exist"),
        (_cut_context, r"QNN 2\.\S+ cannot load the context binary in main\.onnx: it is damaged, or from a newer QNN"),
        (_plain, r"main\.onnx holds no context binary of this project"),
    ],
)
def test_damaged_and_foreign_files_are_one_sentence(
    harm: Callable[[Path], None], said: str, small: Exports, tmp_path: Path
) -> None:
    copy = tmp_path / "main.onnx"
    copy.write_bytes(small("fp16").files["main"].read_bytes())
    harm(copy)
    with pytest.raises(RunFailed, match=said) as caught:
        QnnRuntime().open({"main": copy}, small("fp16").signatures)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_another_graph_is_refused(small: Exports) -> None:
    signature = small("fp16").signatures["main"]
    other = dataclasses.replace(signature, outputs=(TensorSpec("z", "float32", (1, 4, 32, 32)),))
    with pytest.raises(Incompatible, match=r"main\.onnx has no output 'z'"):
        QnnRuntime().open(small("fp16").files, {"main": other})


def test_the_compiler_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"QNN compiles nothing of this graph for HTP 75: .*(doesn't exist|failed)"):
        compile_graph(tmp_path / "none.onnx", tmp_path / "target.onnx", 75)


# A detector


@pytest.mark.slow
def test_a_detector(shared: Path, tmp_path: Path) -> None:
    """YOLOv8n at 160 is one context, and finds on the simulator what it finds in PyTorch."""
    pytest.importorskip("ultralytics")
    from edgedeploy.model import InputShape, load
    from edgedeploy.tasks.image import read_image

    made = load(shared / "weights" / "yolov8n.pt", InputShape(size=(160, 160)))
    images = [read_image(path) for path in sorted((shared / "data" / "coco_val128" / "images").rglob("*.jpg"))[:8]]
    for precision, furthest in (("fp16", 0.03), ("int8", 0.3)):
        kept: dict[str, Any] = {"keep_float": "model.22", "limit": 0.3} if precision == "int8" else {}  # no search
        artifact = exported(made, precision, tmp_path / precision, samples=images, **kept)
        decided = artifact.manifest.exporter.decisions["main"]
        assert decided["partitions"] == 1
        assert decided["nodes_on_cpu"] == []
        assert decided["distance_compiled"] <= furthest


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


def exporter(precision: str, board: device.Device | None = S24, **options: Any) -> Exporter:
    made: Exporter = plugins.find(plugins.EXPORTERS, "qnn").for_device(board, precision, options)
    return made


def exported(
    made: Model,
    precision: str,
    folder: Path,
    samples: Sequence[Sample] | None = None,
    board: device.Device | None = S24,
    **options: Any,
) -> Artifact:
    chosen = samples or slopes(16)
    evidence = Evidence(chosen, "mine", CalibrationRecord("mine", len(chosen), "0" * 64))
    return export(made, Request(exporter(precision, board, **options), evidence), folder)


def opened(artifact: Artifact) -> Session:
    return QnnRuntime(threads=1).open(artifact.files, artifact.signatures)


def slopes(count: int) -> list[Any]:
    y, x = np.mgrid[:32, :32] / 31
    return [np.stack([x * i / count, y, 1 - x])[np.newaxis].astype(np.float32) for i in range(1, count + 1)]


def snr(wanted: Array, got: Array) -> float:
    """In dB."""
    signal, other = wanted.astype(np.float64), got.astype(np.float64)
    noise = np.linalg.norm(signal - other)
    return float(20 * np.log10(np.linalg.norm(signal) / noise)) if noise else float("inf")
