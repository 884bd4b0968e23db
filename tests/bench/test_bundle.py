"""From a bundle on disk to a target, and all the way through a real runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgedeploy import plugins
from edgedeploy.artifact import SCHEMA, ExporterRecord, Golden, GraphRecord, Manifest, seal, writing
from edgedeploy.bench.bundle import load
from edgedeploy.bench.frames import Frames
from edgedeploy.bench.run import BenchOptions, bench
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.target import Job
from edgedeploy.errors import UsageError
from edgedeploy.model import Source
from edgedeploy.runtime import Runtime, Session
from edgedeploy.tasks import STREAM, Detect, Keywords, Raw, contract_of
from edgedeploy.tensors import Signature, StateSpec, TensorSpec
from edgedeploy.testing import FakeSession

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 3)),), (TensorSpec("y", "float32", (1, 3)),))
BATCHES = Signature((TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),))

STEP = Signature(
    (TensorSpec("frame", "float32", (1, 128)), TensorSpec("end", "float32", (1, 1))),
    (TensorSpec("logits", "float32", (1, 2)), TensorSpec("heard", "float32", (1, 1))),
    (StateSpec("m", "m_next", "float32", (1, 8)),),
)


@dataclass(frozen=True)
class Imagined(Runtime):
    """A runtime that remembers whether its library was imported."""

    name: ClassVar[str] = "imagined"
    loaded: ClassVar[list[str]] = []
    fast: bool = False

    @classmethod
    def version(cls) -> str:
        return "9"

    @classmethod
    def preload(cls) -> None:
        cls.loaded.append("library")

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        ((name, file),) = files.items()  # nothing is opened that is not run
        assert file.is_file()
        return FakeSession(signature=signatures[name], facts={"threads": self.threads or 0, "fast": int(self.fast)})


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> None:
    Imagined.loaded.clear()
    monkeypatch.setattr(plugins, "find", lambda group, name: Imagined)


def bundle(
    directory: Path,
    graph: bytes = b"graph",
    signature: Signature = SIGNATURE,
    task: Mapping[str, Any] | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    stream: Signature | None = None,
) -> Path:
    golden = tuple(Golden("main", (f"golden/{i}.npy",), (), {}, (), 0.0) for i in range(2))
    graphs = {"main": GraphRecord("graphs/main.onnx", signature)}
    if stream is not None:
        graphs[STREAM] = GraphRecord("graphs/stream.xml", stream)
        golden += (Golden(STREAM, ("golden/sound.npy",), (), {}, (), 0.0),)
    manifest = Manifest(
        schema=SCHEMA,
        name="net",
        created=created,
        source=Source("net.pt", "native", "0" * 64),
        task=task,
        graphs=graphs,
        exporter=ExporterRecord("onnxruntime", "onnxruntime", None, "fp32", {}, {}),
        tools={},
        calibration=None,
        golden=golden,
        golden_origin="test",
        golden_by="test",
        requires=(),
        device=None,
        request="r",
        seconds=1.0,
        notes=(),
        files={},
    )
    with writing(directory, "net") as temporary:
        (temporary / "graphs").mkdir()
        (temporary / "golden").mkdir()
        (temporary / "graphs" / "main.onnx").write_bytes(graph)
        for i in range(2):
            np.save(temporary / "golden" / f"{i}.npy", np.full((1, 3), i, np.float32))
        if stream is not None:
            (temporary / "graphs" / "stream.xml").write_bytes(b"xml")
            (temporary / "graphs" / "stream.bin").write_bytes(b"weights")
            np.save(temporary / "golden" / "sound.npy", np.zeros(1600, np.float32))
        seal(temporary, manifest)
    return directory / "net.edge"


def job(path: Path, **changed: Any) -> Job:
    return replace(Job("edgedeploy.bench.bundle:load", str(path)), **changed)


@pytest.mark.usefixtures("imagined")
def test_a_bundle_becomes_a_target(tmp_path: Path) -> None:
    target = load(job(bundle(tmp_path), threads=2, options={"fast": True}))
    assert (target.name, target.backend, target.model_size) == ("net", "onnxruntime", 5)
    assert isinstance(target.task, Raw)
    assert [sample.tolist() for sample in target.samples] == [[[0, 0, 0]], [[1, 1, 1]]]
    assert Imagined.loaded == []
    assert target.load_runtime() == "9"
    assert Imagined.loaded == ["library"]
    assert target.open().facts == {"threads": 2, "fast": 1}


@pytest.mark.usefixtures("imagined")
def test_a_bundle_that_takes_a_stream_is_measured_on_it(tmp_path: Path) -> None:
    path = bundle(tmp_path, task=contract_of(Keywords(("yes", "no"), lookahead=3)), stream=STEP)
    target = load(job(path))
    assert (target.graph, target.signature, target.frames) == (STREAM, STEP, Frames(16000, 0.01, 0.025, 3))
    assert ([len(sample) for sample in target.samples], target.model_size) == ([1600], 10)  # weights lie beside it
    assert target.image_engine is None
    whole = load(job(path, graph="main"))
    assert (whole.graph, whole.frames, len(whole.samples), whole.model_size) == ("main", None, 2, 5)
    with pytest.raises(UsageError, match=r"net has no graph 'steam'\. Did you mean 'stream'\?"):
        load(job(path, graph="steam"))


@pytest.mark.usefixtures("imagined")
def test_a_graph_of_that_name_without_the_task_takes_samples(tmp_path: Path) -> None:
    target = load(job(bundle(tmp_path, stream=STEP)))
    assert (target.graph, target.frames) == (STREAM, None)


@pytest.mark.usefixtures("imagined")
def test_recordings_in_a_folder(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = bundle(tmp_path, task=contract_of(Keywords(("yes", "no"))), stream=STEP)
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", np.full(800, 0.25, np.float32), 16000)
    (tmp_path / "clips" / "notes.txt").write_text("none")
    (sample,) = load(job(path, samples=str(tmp_path / "clips"))).samples
    assert (sample.dtype, len(sample)) == (np.float32, 800)
    soundfile.write(tmp_path / "clips" / "b.wav", np.zeros(800, np.float32), 8000)
    with pytest.raises(UsageError, match="8000 Hz, and 16000 Hz is needed"):
        load(job(path, samples=str(tmp_path / "clips")))


@pytest.mark.usefixtures("imagined")
def test_the_digest_is_of_what_runs_and_not_of_when_it_was_exported(tmp_path: Path) -> None:
    first = load(job(bundle(tmp_path)))
    again = load(job(bundle(tmp_path, created="2027-01-01T00:00:00+00:00")))
    other = load(job(bundle(tmp_path, graph=b"other")))
    task = load(job(bundle(tmp_path, task=contract_of(Raw()))))
    assert first.digest == again.digest
    assert len({first.digest, other.digest, task.digest}) == 3


@pytest.mark.usefixtures("imagined")
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"graph": "main2"}, r"net has no graph 'main2'\. Did you mean 'main'"),
        ({"batch": 4}, "takes batches of 1 only, not of 4"),
        ({"options": {"fats": True}}, r"has no option 'fats'\. Did you mean 'fast'"),
        ({"size": (320, 320)}, "cannot run at another size"),
        ({"samples": "nowhere.npy"}, "not a readable array"),
    ],
)
def test_what_a_bundle_cannot_do(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(job(bundle(tmp_path), **changed))


@pytest.mark.usefixtures("imagined")
def test_a_query_of_several_samples_is_one_batch_where_the_graph_takes_it(tmp_path: Path) -> None:
    eight = Scenario("multi-stream", samples_per_query=8)
    assert load(job(bundle(tmp_path), scenario=eight)).signature == SIGNATURE
    assert load(job(bundle(tmp_path, signature=BATCHES), scenario=eight)).signature == BATCHES
    four = Signature((TensorSpec("x", "float32", (3, 3)),), SIGNATURE.outputs)
    with pytest.raises(UsageError, match="no whole number of batches of 3, which net is run with"):
        load(job(bundle(tmp_path, signature=four), scenario=eight))


@pytest.mark.usefixtures("imagined")
def test_samples_from_a_folder_are_spread_over_it(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for i in range(40):
        np.save(folder / f"{i:02}.npy", np.full((1, 3), i, np.float32))
    picked = [int(sample[0, 0]) for sample in load(job(bundle(tmp_path), samples=str(folder))).samples]
    assert (len(picked), picked[0], picked[-1]) == (16, 0, 39)
    with pytest.raises(UsageError, match="not a readable array"):
        load(job(bundle(tmp_path), samples=str(tmp_path / "nothing")))


@pytest.mark.usefixtures("imagined")
def test_another_size(tmp_path: Path) -> None:
    image = Signature((TensorSpec("x", "float32", (1, 3, "height", "width")),), SIGNATURE.outputs)
    path = bundle(tmp_path, signature=image, task=contract_of(Detect(("cat",), (640, 640))))
    target = load(job(path, size=(320, 480)))
    assert isinstance(target.task, Detect)
    assert target.task.size == (320, 480)
    assert target.image_engine is not None


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A bundle whose graph doubles its input."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [ends[0]], [ends[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bundle(tmp_path, model.SerializeToString(), BATCHES)


def test_a_bundle_is_measured_with_onnxruntime(doubling: Path) -> None:
    options = BenchOptions(threads=1, batch=2, duration=0.1, processes=2, options={"optimization": "basic"})
    made = bench(doubling, options)
    assert made.conditions.inputs == {"x": (2, 3)}
    assert made.processes[0].facts["optimization"] == "basic"
    assert made.processes[0].facts["threads"] == 1
    assert "onnxruntime" in made.environment.packages
    assert {"torch", "pyyaml", "typer", "rich"} & set(made.environment.packages) == set()
    assert made.count >= 14


def test_a_graph_that_is_none_is_told_as_the_runtime_tells_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from edgedeploy.errors import RunFailed

    with pytest.raises(RunFailed, match=r"net\.edge on its runtime: ONNX Runtime cannot load main\.onnx"):
        bench(bundle(tmp_path), BenchOptions(processes=1, duration=0.1))


def test_offline_overlaps_a_real_session_in_threads(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With outputs that ONNX Runtime would overwrite in the next call."""
    from edgedeploy.bench import drive
    from edgedeploy.bench.worker import measure

    monkeypatch.setattr(drive, "WORTH", 0.0)
    options = {"io_binding": True}
    made = job(doubling, batch=2, threads=1, duration=0.1, options=options, scenario=Scenario("offline"))
    answer = measure(made, lambda event, fields: None)
    assert len(answer.process.samples) >= 7
    assert answer.conditions.inputs == {"x": (2, 3)}
