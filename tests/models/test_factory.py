"""``module:function``: whatever network a function returns can be exported, measured and checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgedeploy import plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import EagerSession
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.exporter import Evidence, Request
from edgedeploy.model import InputShape, load
from edgedeploy.pipeline import export_checkpoint
from edgedeploy.verify import verify

MODULE = '''
import torch
from torch import nn
import edgedeploy.model
from edgedeploy.tensors import Signature, TensorSpec


def classifier():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10), nn.Softmax(1),
    )
    network.example_inputs = (torch.zeros(1, 3, 32, 32),)
    return network


class Pair(nn.Module):
    """Outputs whose order is not that of their sizes, and inputs of two types."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(200, 8)
        self.mix = nn.Linear(8, 4)
        self.example_inputs = (torch.zeros(1, 8), torch.zeros(1, 5, dtype=torch.int64))

    def forward(self, image, tokens):
        mixed = self.mix(image + self.words(tokens).mean(1))
        return mixed, 100 * mixed.sum(1, keepdim=True)


def pair():
    return Pair()


def with_shape(shape):
    network = classifier()
    network.example_inputs = (torch.zeros(shape.batch, 3, *(shape.size or (32, 32))),)
    return network


def with_default(width=8, *, bias=True):
    assert isinstance(width, int), width
    network = nn.Linear(width, 2, bias=bias)
    network.example_inputs = (torch.zeros(1, width),)
    return network


def whole_model(shape):
    specs = (TensorSpec("signal", "float32", ("batch", 8)),), (TensorSpec("score", "float32", ("batch", 2)),)
    graph = edgedeploy.model.Graph(nn.Linear(8, 2).eval(), Signature(*specs))
    return edgedeploy.model.Model("mine", {"main": graph}, edgedeploy.model.Source("x", "x", "x"))


def returning(value):
    return lambda: value


def bad(network, example):
    network.example_inputs = example
    return network


class Texts(nn.Module):
    def forward(self, x):
        return {"logits": x}


nothing, text, weights = returning(None), returning("text"), returning({"weight": torch.zeros(1)})
plain, number = returning(nn.Linear(2, 2)), 5
no_tuple = returning(bad(nn.Linear(2, 2), torch.zeros(1, 2)))
no_tensors = returning(bad(nn.Linear(2, 2), (1, 2)))
empty = returning(bad(nn.Linear(2, 2), ()))
gives_mapping = returning(bad(Texts(), (torch.zeros(1, 2),)))
gives_number = returning(bad(nn.MSELoss(), (torch.zeros(1, 2), torch.zeros(1, 2))))
halves = returning(bad(nn.Linear(2, 2).bfloat16(), (torch.zeros(1, 2, dtype=torch.bfloat16),)))
'''


@pytest.fixture(autouse=True, scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module of the user's, importable while these tests run; one thread, because the maps are small."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "their_nets.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.path.remove(str(folder))
    sys.modules.pop("their_nets", None)


def exported(reference: str, precision: str, samples: list[Any], folder: Path, **options: Any) -> Artifact:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, options)
    record = CalibrationRecord("mine", len(samples), "0" * 64) if precision == "int8" else None
    return export_checkpoint(reference, Request(exporter, Evidence(samples, "mine", record)), folder).artifact


def smooth(count: int) -> list[np.ndarray[Any, Any]]:
    """Pictures that are no noise: slopes and a bright disc."""
    y, x = np.mgrid[:32, :32] / 31
    pictures = []
    for i in range(count):
        disc = ((x - 0.2 - 0.05 * i) ** 2 + (y - 0.5) ** 2 < 0.04).astype(np.float32)
        pictures.append(np.stack([x, y, 0.5 * x + disc])[np.newaxis].astype(np.float32))
    return pictures


def run(artifact: Artifact, inputs: dict[str, Any]) -> dict[str, Any]:
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open(artifact.files, artifact.signatures)
    return dict(session.run(inputs))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 0.05)])
def test_a_classifier_exports_and_verifies(precision: str, tolerance: float, tmp_path: Path) -> None:
    pictures = smooth(10)
    artifact = exported("their_nets:classifier", precision, pictures, tmp_path)
    assert (artifact.manifest.name, artifact.manifest.task) == ("classifier", None)
    wanted = EagerSession(load("their_nets:classifier")).run({"input": pictures[3]})["output"]
    got = run(artifact, {"input": pictures[3]})["output"]
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), atol=tolerance)
    result = verify(artifact.path)
    assert result.passed, result.rungs
    assert [rung.name for rung in result.rungs] == ["files", "requires", "load", "prepare", "outputs", "results"]


def test_int8_of_noise_is_refused(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).random((1, 3, 32, 32), np.float32) for i in range(4)]
    with pytest.raises(UsageError, match="look like noise"):
        exported("their_nets:classifier", "int8", noise, tmp_path)


def test_two_inputs_of_two_types_and_two_outputs(tmp_path: Path) -> None:
    tokens = np.array([[1, 2, 3, 4, 199]])
    samples = [(np.full((1, 8), i, np.float32), tokens) for i in range(3)]
    artifact = exported("their_nets:pair", "fp32", samples, tmp_path)
    signature = artifact.signatures["main"]
    assert [(s.name, s.dtype) for s in signature.inputs] == [("input_0", "float32"), ("input_1", "int64")]
    assert [s.shape for s in signature.outputs] == [(1, 4), (1, 1)]
    outputs = run(artifact, {"input_1": tokens, "input_0": samples[1][0]})
    np.testing.assert_allclose(outputs["output_1"], 100 * outputs["output_0"].sum(1, keepdims=True), rtol=1e-4)
    assert verify(artifact.path).passed


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes float32 \[1, 3, 32, 32\], but was given uint8"):
        exported("their_nets:classifier", "fp32", [np.zeros((32, 32, 3), np.uint8)], tmp_path)


def test_where_images_only_stand_in_tensors_from_a_seed_are_used(tmp_path: Path) -> None:
    """What ``edgedeploy export module:function`` does: it has nothing better, and says so."""
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    images = Evidence([np.zeros((32, 32, 3), np.uint8)], "a picture", stand_in=True)
    artifact = export_checkpoint("their_nets:pair", Request(exporter, images), tmp_path).artifact
    assert artifact.manifest.golden_origin == "2 random inputs"
    assert verify(artifact.path).passed


def test_a_batch_that_stays_dynamic(tmp_path: Path) -> None:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    request = Request(exporter, Evidence(smooth(2), "mine"), InputShape(dynamic=("batch",)))
    artifact = export_checkpoint("their_nets:classifier", request, tmp_path).artifact
    assert artifact.signatures["main"].inputs[0].shape == ("batch", 3, 32, 32)
    for batch in (1, 5):
        inputs = np.concatenate(smooth(batch))
        with torch.no_grad():
            wanted = load("their_nets:classifier").graphs["main"].network(torch.from_numpy(inputs)).numpy()
        np.testing.assert_allclose(run(artifact, {"input": inputs})["output"], wanted, atol=1e-5)


def test_a_factory_is_run_again_each_time(tmp_path: Path) -> None:
    """What a function returns may depend on anything, so that an old artifact is never taken for true."""
    first = exported("their_nets:with_default", "fp32", [np.zeros((1, 8), np.float32)], tmp_path)
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    again = export_checkpoint(
        "their_nets:with_default", Request(exporter, Evidence([np.zeros((1, 8), np.float32)], "mine")), tmp_path
    )
    assert not again.reused
    assert again.artifact.path == first.path


def test_the_shape_is_given_to_a_function_that_asks_for_it() -> None:
    model = load("their_nets:with_shape", InputShape(batch=2, size=(64, 32)))
    assert model.graphs["main"].signature.inputs[0].shape == (2, 3, 64, 32)


def test_an_argument_with_a_default_is_not_the_shape() -> None:
    assert load("their_nets:with_default").graphs["main"].signature.inputs[0].shape == (1, 8)


def test_a_whole_model_is_taken_as_it_is() -> None:
    model = load("their_nets:whole_model")
    assert (model.name, model.source.reference) == ("mine", "their_nets:whole_model")
    assert model.graphs["main"].signature.inputs[0].name == "signal"


@pytest.mark.parametrize("shape", [InputShape(batch=4), InputShape(size=(64, 64)), InputShape(dynamic=("size",))])
def test_a_shape_that_the_example_does_not_have_is_refused(shape: InputShape) -> None:
    with pytest.raises(UsageError, match="has the shapes of its example_inputs"):
        load("their_nets:classifier", shape)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "the module has no function 'missing'"),
        ("number", "the module has no function 'number'"),
        ("nothing", "returned NoneType: return an edgedeploy.Model, or a torch.nn.Module"),
        ("text", "returned str"),
        ("weights", "returned dict"),
        ("plain", "returned Linear: .* example_inputs"),
        ("no_tuple", "has to be a tuple of tensors, found Tensor"),
        ("no_tensors", "has to be a tuple of tensors"),
        ("empty", "has to be a tuple of tensors"),
        ("gives_mapping", "its network gives dict, not a tensor"),
        ("gives_number", "not a tensor or a tuple of tensors"),
        ("halves", "has to be a tuple of tensors"),
    ],
)
def test_what_a_function_must_not_return_is_said(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load(f"their_nets:{name}")
    assert f"their_nets:{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_that_the_network_cannot_take_is_no_traceback() -> None:
    session = EagerSession(load("their_nets:pair"))
    with pytest.raises(RunFailed, match="PyTorch failed in graph 'main': IndexError"):
        session.run({"input_0": np.zeros((1, 8), np.float32), "input_1": np.full((1, 5), 1000)})
