"""A keyword model with both of its graphs in every precision, from one capture that has become ONNX files."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

import onnx
import torch

from edgedeploy import device, plugins
from edgedeploy.artifact import MANIFEST, Artifact, CalibrationRecord, seal
from edgedeploy.capture import to_onnx
from edgedeploy.cli.export import _graph_rows
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.golden import run_stream
from edgedeploy.ladder import shape_of
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.models.keyword_graphs import graphs
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Carrying
from edgedeploy.tasks import STREAM, Keywords, contract_of
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tasks.keywords import stand_ins
from edgedeploy.tensors import Array
from edgedeploy.verify import verify

TASK = Keywords(("yes", "no", "up", "down"), Fbank(bins=16), frames=24)
CLIPS = stand_ins(TASK, 4)
Made = Callable[[str, str], Artifact]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its graphs are ONNX files, as those of a user may be: whoever exports them captures nothing again."""
    torch.manual_seed(1)
    network = LMUFormer(4, bins=16, dim=16, memory=16, theta=12, frames=24)
    for unit in network.units:
        torch.nn.init.constant_(unit.signal.bias, 0.5)  # type: ignore[union-attr, arg-type]  # there is a signal
    torch.nn.init.normal_(network.head.weight, std=0.3)
    folder = tmp_path_factory.mktemp("graphs")
    found = {}
    for name, graph in graphs(network.eval(), TASK, InputShape(streaming=True)).items():
        to_onnx(graph, folder / f"{name}.onnx", 19)
        found[name] = Graph(folder / f"{name}.onnx", graph.signature)
    return Model("words", found, Source("words", "onnx", "0" * 64), contract_of(TASK))


@pytest.fixture(scope="module")
def made(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Made:
    known: dict[tuple[str, str], Artifact] = {}

    def make(backend: str, precision: str) -> Artifact:
        if (backend, precision) not in known:
            profile = device.load("jetson-orin-nano") if backend == "tensorrt" else None
            folder = tmp_path_factory.mktemp(f"{backend}-{precision}")
            evidence = Evidence(CLIPS, "babble", CalibrationRecord("babble", len(CLIPS), "0" * 64))
            try:
                exporter = plugins.find(plugins.EXPORTERS, backend).for_device(profile, precision, {})
                known[backend, precision] = export(model, Request(exporter, evidence, device=profile), folder)
            except Unavailable as error:
                pytest.skip(str(error))
        return known[backend, precision]

    return make


@pytest.mark.parametrize(
    ("backend", "precision", "lowest"),
    [
        ("onnxruntime", "fp32", 110),
        ("onnxruntime", "fp16", 55),
        ("onnxruntime", "int8-weights", 30),
        ("onnxruntime", "int8", 30),
        ("openvino", "fp16", 55),
        ("openvino", "int8-weights", 30),
        ("tensorrt", "fp16", 55),
        ("tensorrt", "int8", 30),
    ],
)
def test_both_graphs_are_checked_and_verified(backend: str, precision: str, lowest: float, made: Made) -> None:
    artifact = made(backend, precision)
    vectors = {name: [g for g in artifact.manifest.golden if g.graph == name] for name in ("main", STREAM)}
    for graph, golden in vectors.items():
        assert len(golden) == 2, graph
        for one in golden:
            assert one.agreement[0].snr > (lowest if graph == STREAM else min(lowest, 25))
            assert one.distance is not None
            assert one.distance < 0.05
    assert all(one.agreement[1].snr == 200 for one in vectors[STREAM])  # frames are counted, whatever computes
    assert artifact.array(vectors[STREAM][0].outputs["logits"]).shape == (24 + TASK.lookahead, 4)
    result = verify(artifact.path)
    assert [rung.name for rung in result.rungs if not rung.passed] in ([], ["requires"])
    notes = [note for note in artifact.manifest.notes if "its weights are int8" in note]
    assert len(notes) == (precision == "int8")


def test_weights_are_smaller_and_state_is_float32_whatever_they_are(made: Made) -> None:
    sizes = {}
    (whole,) = [
        w for w in onnx.load(made("onnxruntime", "fp32").files[STREAM]).graph.initializer if "transit" in w.name
    ]
    matrix = onnx.numpy_helper.to_array(whole)
    for precision in ("fp32", "fp16", "int8-weights"):
        artifact = made("onnxruntime", precision)
        graph = onnx.load(artifact.files[STREAM]).graph
        sizes[precision] = sum(len(one.raw_data) for one in graph.initializer)
        assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
        held = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
        assert any(array.shape == (16, 16) and np.array_equal(array, matrix) for array in held), precision
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8-weights"] < 0.45 * sizes["fp32"]


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp16"), ("openvino", "int8-weights")])
def test_a_stream_is_longer_than_what_fp16_counts_to(backend: str, precision: str, made: Made) -> None:
    artifact, other = made(backend, precision), made("onnxruntime", "fp32")
    sessions = [open_artifact_here(one, threads=1) for one in (artifact, other)]
    generator, end = np.random.default_rng(0), np.zeros((1, 1), np.float32)
    for _ in range(2100):
        step: dict[str, Array] = {"frame": generator.standard_normal((1, 16)).astype(np.float32), "end": end}
        got, wanted = (session.run(step, STREAM) for session in sessions)
    assert got["heard"].item() == wanted["heard"].item() == 2095
    np.testing.assert_allclose(got["logits"].astype(float), wanted["logits"].astype(float), atol=0.05)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("steps", [7, 8])
def test_state_is_taken_out_and_put_back(backend: str, steps: int, made: Made) -> None:
    """After an odd and an even number of steps: state lies in the one or the other of two sets of buffers."""
    artifact = made(backend, "fp32" if backend == "onnxruntime" else "fp16")
    session = open_artifact_here(artifact, threads=1)
    assert isinstance(session, Carrying)
    frames = np.random.default_rng(2).standard_normal((steps + 12, 1, 16)).astype(np.float32)

    def run(chosen: npt.NDArray[np.float32]) -> list[Array]:
        return [session.run({"frame": f, "end": np.zeros((1, 1), np.float32)}, STREAM)["logits"] for f in chosen]

    first = run(frames[:steps])
    kept = [array.copy() for array in first]
    held = session.state()
    later = run(frames[steps:])
    np.testing.assert_array_equal(first, kept)  # what was handed out is not written over
    name = next(iter(held))
    wrong: list[dict[str, Array]] = [
        {key: array for key, array in held.items() if key != name},
        {**held, "another": held[name]},
        {**held, name: held[name].astype(np.float64)},
        {**held, name: held[name][:, 1:]},
    ]
    for one in wrong:
        before = session.state()
        with pytest.raises(UsageError, match=f"{name}|another"):
            session.restore(one)
        for key, array in session.state().items():
            np.testing.assert_array_equal(array, before[key])
    session.restore(held)
    np.testing.assert_array_equal(run(frames[steps:]), later)
    session.reset()
    assert not any(array.any() for array in session.state().values())
    np.testing.assert_array_equal(run(frames[:steps]), kept)


def test_a_step_graph_that_was_changed_is_found_out(made: Made, tmp_path: Path) -> None:
    artifact = made("onnxruntime", "fp32")
    path = tmp_path / "words.edge"
    shutil.copytree(artifact.path, path)
    graph = onnx.load(path / "graphs" / "stream.onnx")
    (head,) = [one for one in graph.graph.initializer if one.name == "head.weight"]
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * np.float32(1.02), head.name))
    onnx.save(graph, path / "graphs" / "stream.onnx")
    (path / MANIFEST).unlink()
    seal(path, artifact.manifest)
    broken = next(rung for rung in verify(path).rungs if not rung.passed)
    assert broken.name == "outputs"
    assert "'logits' of golden sample 2, for graph 'stream'," in broken.seen


def test_golden_vectors_that_do_not_fit_are_refused(made: Made, tmp_path: Path) -> None:
    artifact = made("onnxruntime", "fp32")
    last = artifact.manifest.golden[-1]
    assert last.graph == STREAM
    path = tmp_path / "words.edge"
    shutil.copytree(artifact.path, path)
    (path / MANIFEST).unlink()
    damaged = (*artifact.manifest.golden[:-1], dataclasses.replace(last, prepared=last.prepared[:1]))
    seal(path, dataclasses.replace(artifact.manifest, golden=damaged))
    with pytest.raises(UsageError, match="golden vector 3 does not fit its graph 'stream'"):
        verify(path)


def test_what_is_asked_of_the_wrong_model_is_refused(model: Model, tmp_path: Path) -> None:
    kind = plugins.find(plugins.EXPORTERS, "onnxruntime")
    for exporter, words in (
        (kind(precision="int8", max_drop=0.01), "max_drop is a loss of AP, which only detectors have"),
        (kind(precision="int8"), "int8 needs real clips to calibrate on: give a folder of them"),
        (kind(precision="int8-weights", keep_float=("nowhere",)), "No part of the graph belongs to a module 'nowhere'"),
    ):
        with pytest.raises(UsageError, match=words):
            export(model, Request(exporter, Evidence(CLIPS, "babble")), tmp_path)
    silent = dataclasses.replace(model, task=None)
    samples: list[Any] = [TASK.prepare(clip).tensors[0] for clip in CLIPS]
    with pytest.raises(UsageError, match="'raw' has no samples for graph 'stream'"):
        export(silent, Request(kind(precision="fp16"), Evidence(samples, "features")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_stand_ins_for_samples_are_sounds(model: Model, tmp_path: Path) -> None:
    kind = plugins.find(plugins.EXPORTERS, "onnxruntime")
    artifact = export(model, Request(kind(), Evidence((), "scenes", stand_in=True)), tmp_path)
    assert artifact.manifest.golden_origin == "2 synthetic sounds"
    assert shape_of(artifact, "words.safetensors").streaming


def test_the_table_shows_both_graphs(made: Made) -> None:
    rows = dict(_graph_rows(made("openvino", "int8-weights")))
    assert set(rows) >= {"graph 'main'", "graph 'stream'"}
    artifact = made("openvino", "int8-weights")
    floats = sum(int(np.prod(spec.shape)) for spec in artifact.signatures[STREAM].state)
    assert f"carries {floats:,} values" in rows["graph 'stream'"]


def test_one_function_runs_a_stream(made: Made) -> None:
    artifact = made("onnxruntime", "fp32")
    outputs = run_stream(open_artifact_here(artifact), artifact.signatures[STREAM], TASK, CLIPS[0])
    heard = TASK.heard([values[-1:] for values in outputs.values()])
    assert heard is not None
    assert heard.frames == 24
