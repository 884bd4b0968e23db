"""The ONNX Runtime exporter on the packaged detector: what it writes computes what PyTorch computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
import torch
from torch import nn

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import EagerSession, module_path, to_onnx
from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import Evidence, Exporter, Request, export
from edgedeploy.golden import Sample
from edgedeploy.model import Graph, InputShape, Model, Source, load
from edgedeploy.runtime import Session
from edgedeploy.tasks import Detect, contract_of, from_contract
from edgedeploy.tasks.image import read_image
from edgedeploy.tensors import Array, Signature, TensorSpec

Exported = Callable[..., Artifact]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(artifact: Artifact) -> Session:
    runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")
    session: Session = runtime(threads=1).open(artifact.files, artifact.signatures)
    return session


def photographs(scenes: Path, count: int) -> list[Array]:
    paths = sorted((scenes.parent / "images" / "val").glob("*.png"))[:count]
    return [read_image(path) for path in paths]


def exporter(precision: str, **options: Any) -> Exporter:
    made: Exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, options)
    return made


def int8(model: Model, samples: Sequence[Sample], folder: Path, **options: Any) -> Artifact:
    evidence = Evidence(samples, "mine", CalibrationRecord("mine", len(samples), "0" * 64))
    return export(model, Request(exporter("int8", **options), evidence), folder)


def size(artifact: Artifact) -> int:
    return artifact.model_size


# Precisions


@pytest.mark.parametrize(("precision", "lowest", "furthest"), [("fp32", 100, 1e-4), ("fp16", 50, 0.05)])
def test_floats_compute_what_pytorch_computes(
    precision: str, lowest: float, furthest: float, exported: Exported
) -> None:
    artifact = exported(precision)
    assert len(artifact.manifest.golden) == 2
    for golden in artifact.manifest.golden:
        assert [one.output for one in golden.agreement] == ["detections"]
        assert all(lowest < one.worst_snr <= one.snr for one in golden.agreement)
        assert golden.distance is not None
        assert golden.distance < furthest
    assert artifact.manifest.requires == ("onnxruntime>=1.18",)
    assert artifact.manifest.exporter.precision == precision


def test_smaller_types_make_smaller_files(exported: Exported) -> None:
    fp32, fp16, eight = (size(exported(precision)) for precision in ("fp32", "fp16", "int8"))
    assert fp16 < 0.55 * fp32
    assert eight < 0.6 * fp16


def test_whatever_the_precision_callers_see_float32(exported: Exported) -> None:
    for precision in ("fp32", "fp16", "int8"):
        graph = onnx.load(exported(precision).files["main"]).graph
        kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        assert kinds == {onnx.TensorProto.FLOAT}, precision


def test_golden_vectors_are_of_samples_in_which_much_is_found(exported: Exported, scenes: Path) -> None:
    artifact = exported("fp32")
    assert artifact.manifest.task is not None
    task = from_contract(artifact.manifest.task)
    counts = []
    for golden in artifact.manifest.golden:
        prepared = task.prepare(artifact.sample(golden))  # type: ignore[arg-type]
        counts.append(len(task.finish([artifact.array(golden.outputs["detections"])], prepared.context)))
    assert min(counts) >= 5


def test_int8_keeps_the_results_and_measures_what_has_to_stay_in_float(exported: Exported) -> None:
    """All quantised, boxes in pixels and scores below one share a scale, and the results are gone."""
    artifact = exported("int8")
    decided = artifact.manifest.exporter.decisions["main"]
    assert decided["distance_all_lowered"] > 0.3
    assert decided["distance"] <= 0.15
    assert all((golden.distance or 0) < 0.15 for golden in artifact.manifest.golden)
    assert any(name.startswith("node_cat") for name in decided["kept_in_float"])
    assert decided["lowered"] > 0.5 * decided["units"]
    assert not any(name.startswith(("stem", "stages", "lateral", "mix")) for name in decided["kept_in_float"])
    quantised = {n.op_type for n in onnx.load(artifact.files["main"]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= quantised


def test_int8_finds_the_same_on_images_that_it_has_not_seen(exported: Exported, aerial: Path, scenes: Path) -> None:
    artifact = exported("int8")
    model = load(aerial)
    assert model.task is not None
    task, eager, session = from_contract(model.task), EagerSession(model), opened(artifact)
    distances = []
    for image in photographs(scenes, 6):
        prepared = task.prepare(image)
        results = [
            task.finish([s.run({"images": prepared.tensors[0]})["detections"]], prepared.context)
            for s in (eager, session)
        ]
        distances.append(task.distance(results[0], results[1]))
    assert np.mean(distances) < 0.15


def test_few_images_are_said(exported: Exported) -> None:
    notes = exported("int8").manifest.notes
    assert any("calibrated on 16 samples; give 100 or more" in note for note in notes)
    assert exported("fp32").manifest.notes == ()


def test_enough_images_need_no_words(tmp_path: Path) -> None:
    made = int8(_tiny(), _slopes(100), tmp_path)
    assert not any("calibrated on" in note for note in made.manifest.notes)


# Options


@pytest.mark.parametrize(("activations", "kind"), [("uint8", onnx.TensorProto.UINT8), ("int8", onnx.TensorProto.INT8)])
def test_both_activation_types_are_what_they_say(activations: str, kind: int, tmp_path: Path) -> None:
    artifact = int8(_tiny(), _slopes(4), tmp_path, activations=activations, reduce_range=False)
    graph = onnx.load(artifact.files["main"]).graph
    constants = {i.name: i for i in graph.initializer}
    zeros = {constants[n.input[2]].data_type for n in graph.node if n.op_type == "QuantizeLinear"}
    assert zeros == {kind}
    assert all((golden.distance or 0) < 0.05 for golden in artifact.manifest.golden)
    foreign = [note for note in artifact.manifest.notes if "suit the target, not this machine" in note]
    import platform

    assert bool(foreign) == ((activations == "int8") == (platform.machine() in ("x86_64", "AMD64")))


def test_seven_bit_weights_are_seven_bits(tmp_path: Path) -> None:
    widest = {}
    for reduced in (False, True):
        artifact = int8(_tiny(), _slopes(4), tmp_path / str(reduced), reduce_range=reduced)
        weights = [
            onnx.numpy_helper.to_array(i)
            for i in onnx.load(artifact.files["main"]).graph.initializer
            if i.data_type == onnx.TensorProto.INT8
        ]
        widest[reduced] = max(int(np.abs(w.astype(np.int32)).max()) for w in weights)
    assert widest[False] == 127
    assert 60 <= widest[True] <= 64


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_ways_to_take_ranges(method: str, tmp_path: Path) -> None:
    artifact = int8(_tiny(), _slopes(8), tmp_path, calibration=method)
    assert artifact.manifest.exporter.options["calibration"] == method
    assert all((golden.distance or 0) < 0.2 for golden in artifact.manifest.golden)


def test_a_module_can_be_kept_in_float(tmp_path: Path) -> None:
    whole = int8(_tiny(), _slopes(4), tmp_path / "whole")
    kept = int8(_tiny(), _slopes(4), tmp_path / "kept", keep_float=("2",))
    decisions = [a.manifest.exporter.decisions["main"] for a in (whole, kept)]
    assert "2" not in decisions[0]["kept_in_float"]
    assert "2" in decisions[1]["kept_in_float"]
    graph = onnx.load(kept.files["main"]).graph
    made_by = {name: node for node in graph.node for name in node.output}
    (conv,) = [n for n in graph.node if n.op_type == "Conv" and module_path(n) == "2"]
    assert conv.input[1] not in made_by  # its weight is a constant, not dequantised


def test_a_module_that_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belongs to a module 'backbone'"):
        int8(_tiny(), _slopes(4), tmp_path, keep_float=("backbone",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "options", "said"),
    [
        ("fp23", {}, "no precision 'fp23'. Known: fp32, fp16, int8"),
        ("fp32", {"opsets": 18}, "no option 'opsets'. Did you mean 'opset'"),
        ("fp32", {"precision": "fp16"}, "no option 'precision'"),
        ("fp32", {"opset": "new"}, "opset: expected a whole number"),
        ("fp32", {"opset": 18.5}, "opset: expected a whole number"),
        ("fp32", {"opset": 7}, "opset 7 cannot be written in fp32: give 16 to"),
        ("fp32", {"opset": 99}, "opset 99 cannot be written in fp32"),
        ("int8", {"opset": 21}, "opset 21 cannot be written in int8: give 16 to 20"),
        ("int8", {"activations": "int4"}, "activations: 'int4' is not one of uint8, int8"),
        ("int8", {"calibration": "best"}, "calibration: 'best' is not one of minmax, entropy, percentile"),
        ("int8", {"limit": 2}, "limit 2.0 is no distance"),
        ("int8", {"limit": "low"}, "limit: expected a number"),
        ("int8", {"reduce_range": "yes"}, "reduce_range: expected true or false"),
        ("int8", {"keep_float": 5}, "keep_float: expected a list"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(precision: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, options)
    assert said in str(caught.value)


def test_one_module_needs_no_list() -> None:
    made = exporter("int8", keep_float="model.22")
    assert made == exporter("int8", keep_float=("model.22",))


@pytest.mark.parametrize(
    ("name", "activations", "reduce_range"),
    [("raspberry-pi-5", "int8", False), ("intel-n100", "uint8", None), ("x86-server", "uint8", None)],
)
def test_defaults_follow_the_instruction_set(name: str, activations: str, reduce_range: bool | None) -> None:
    profile = device.load(name)
    made = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(profile, "int8", {})
    expected = profile.int8.dot_product is False if reduce_range is None else reduce_range
    assert (made.activations, made.reduce_range) == (activations, expected)
    assert plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(profile, "int8", {"activations": "int8"}) == (
        dataclasses.replace(made, activations="int8")
    )


@pytest.mark.parametrize("opset", [17, 20])
def test_another_opset(opset: int, tmp_path: Path) -> None:
    request = Request(exporter("fp32", opset=opset), Evidence(_slopes(1), "mine"))
    artifact = export(_tiny(), request, tmp_path)
    assert [o.version for o in onnx.load(artifact.files["main"]).opset_import if not o.domain] == [opset]


# Shapes


def test_dynamic_batch_and_size_run_at_other_shapes(exported: Exported, aerial: Path) -> None:
    artifact = exported("fp32", InputShape(size=(160, 160), dynamic=("batch", "size")))
    assert artifact.signatures["main"].inputs[0].shape == ("batch", 3, "height", "width")
    session, eager = opened(artifact), EagerSession(load(aerial, InputShape(dynamic=("batch", "size"))))
    generator = np.random.default_rng(0)
    for shape in ((1, 3, 160, 160), (3, 3, 64, 96), (1, 3, 32, 32), (2, 3, 352, 224)):
        image = generator.random(shape, np.float32)
        got, wanted = (s.run({"images": image})["detections"] for s in (session, eager))
        assert got.shape == (shape[0], 8, sum(shape[2] * shape[3] // s**2 for s in (8, 16, 32)))
        np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(wanted, np.float64), rtol=1e-3, atol=1e-2)


def test_a_fixed_batch_of_four(exported: Exported, aerial: Path) -> None:
    artifact = exported("fp32", InputShape(batch=4, size=(160, 160)))
    assert artifact.signatures["main"].inputs[0].shape == (4, 3, 160, 160)
    image = np.random.default_rng(0).random((4, 3, 160, 160), np.float32)
    got = opened(artifact).run({"images": image})["detections"]
    wanted = EagerSession(load(aerial, InputShape(batch=4, size=(160, 160)))).run({"images": image})["detections"]
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(wanted, np.float64), rtol=1e-3, atol=1e-2)
    with pytest.raises(UsageError, match=r"takes float32 \[4, 3, 160, 160\]"):
        opened(artifact).run({"images": image[:1]})
    assert [artifact.array(f).shape[0] for g in artifact.manifest.golden for f in g.outputs.values()] == [1, 1]


def test_int8_with_everything_dynamic(tmp_path: Path) -> None:
    shape = ("batch", 3, "height", "width"), ("batch", 4, "rows", "columns")
    artifact = int8(_model(_tiny().graphs["main"].network, *shape), _slopes(4), tmp_path)
    outputs = opened(artifact).run({"x": np.zeros((2, 3, 64, 96), np.float32)})["y"]
    assert outputs.shape == (2, 4, 32, 48)


# What is refused


def test_int8_without_images_is_refused(aerial: Path, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"int8 needs real images .* --calibrate"):
        export(load(aerial), Request(exporter("int8"), Evidence(photographs(scenes, 1), "one")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_noise_is_refused(tmp_path: Path) -> None:
    """Ranges of random numbers look fine and ruin the network."""
    noise = [np.random.default_rng(i).random((1, 3, 32, 32), np.float32) for i in range(4)]
    with pytest.raises(UsageError, match="look like noise"):
        int8(_tiny(), noise, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_images_of_one_colour_are_no_noise_and_no_crash(tmp_path: Path) -> None:
    flat = [np.full((1, 3, 32, 32), 0.1 * i, np.float32) for i in range(4)]
    assert int8(_tiny(), flat, tmp_path).model_size > 0


def test_an_export_needs_a_sample(aerial: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one real sample"):
        export(load(aerial), Request(exporter("fp32"), Evidence([], "none")), tmp_path)


def test_what_torch_cannot_express_is_one_sentence(tmp_path: Path) -> None:
    class Eigen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = torch.linalg.eigvals(x).abs()
            return values

    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    for network in (Eigen(), Branches()):
        with pytest.raises(ExportFailed, match="onnxruntime could not export net: ") as caught:
            export(_model(network, (1, 4, 4), (1, 4)), Request(exporter("fp32"), Evidence(_ones(4, 4), "x")), tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        assert "\x1b" not in message
        assert caught.value.__cause__ is not None
        assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_reproduce_the_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that gets one weight wrong and says nothing."""

    def wrong(graph: Graph, target: Path, opset: int, task: Any = None) -> None:
        to_onnx(graph, target, opset, task)
        perturb(target)

    monkeypatch.setattr("edgedeploy_onnxruntime.to_onnx", wrong)
    with pytest.raises(ExportFailed, match=r"does not reproduce it: output 'y' has a channel with an SNR of \d+ dB"):
        export(_tiny(), Request(exporter("fp32"), Evidence(_slopes(2), "mine")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def perturb(path: Path) -> None:
    """Change the first weight of the first convolution."""
    proto = onnx.load(path)
    name = next(n.input[1] for n in proto.graph.node if n.op_type == "Conv")
    (weight,) = [i for i in proto.graph.initializer if i.name == name]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(proto, path)


def test_boxes_that_move_are_refused_where_scores_alone_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows sorted by score: their tensor says little, so that their boxes are judged as results."""

    class Rows(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            score = images.mean((1, 2, 3), keepdim=True).reshape(-1, 1, 1) * 0 + 0.9
            box = torch.cat([score * 0 + v for v in (self.shift, 4.0, self.shift + 9, 20.0)], dim=2)
            return torch.cat([box, score, score * 0], dim=2)

    def model(shift: float) -> Model:
        task = Detect(("thing",), (32, 32), head="end2end")
        return dataclasses.replace(_model(Rows(shift), (1, 3, 32, 32), (1, 1, 6)), task=contract_of(task))

    image = [np.zeros((32, 32, 3), np.uint8)]
    request = Request(exporter("fp32"), Evidence(image, "one"))
    assert export(model(5), request, tmp_path / "right").manifest.golden[0].distance == pytest.approx(0, abs=1e-3)
    other = model(11).graphs["main"]
    monkeypatch.setattr("edgedeploy_onnxruntime.to_onnx", lambda graph, *rest: to_onnx(other, *rest))
    with pytest.raises(ExportFailed, match=r"does not reproduce it: results move by 1\.00"):
        export(model(5), request, tmp_path / "wrong")
    assert list((tmp_path / "wrong").iterdir()) == []


# A small network of its own


def _tiny() -> Model:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    return _model(network, (1, 3, 32, 32), (1, 4, 16, 16))


def _model(network: nn.Module, takes: tuple[int | str, ...], gives: tuple[int | str, ...]) -> Model:
    signature = Signature((TensorSpec("x", "float32", takes),), (TensorSpec("y", "float32", gives),))
    return Model("net", {"main": Graph(network.eval(), signature)}, Source("net", "factory", "0" * 64))


def _slopes(count: int) -> list[Sample]:
    y, x = np.mgrid[:32, :32] / 31
    return [np.stack([x * i / count, y, 1 - x])[np.newaxis].astype(np.float32) for i in range(1, count + 1)]


def _ones(*shape: int) -> list[Sample]:
    return [np.ones((1, *shape), np.float32)]
