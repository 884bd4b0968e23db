"""The ladder on a small detector in which faults were planted: each is named, with the module and what to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
import torch
from torch import Tensor, nn

from edgedeploy import plugins
from edgedeploy.artifact import MANIFEST, Artifact, CalibrationRecord, seal
from edgedeploy.capture import module_path
from edgedeploy.cli.ladder import after_export
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.fix import Again, Fix, fix
from edgedeploy.ladder import Ladder, climb
from edgedeploy.model import Graph, Model, Source, load
from edgedeploy.precision import half
from edgedeploy.precision.qdq import QdqLowering
from edgedeploy.records import canonical, from_json, to_json
from edgedeploy.report.ladder import verdict
from edgedeploy.rungs import Rung
from edgedeploy.runtime import Runtime
from edgedeploy.tasks import Detect, contract_of
from edgedeploy.tensors import Array, Signature, TensorSpec

SIDE = 64


class Block(nn.Sequential):
    """Convolution, normalisation, ReLU; halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        norm = nn.BatchNorm2d(outputs, momentum=1.0)
        super().__init__(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), norm, nn.ReLU())


class Loud(nn.Module):
    """A block whose insides are large and its output is not.

    The channels change places because ONNX Runtime, which has hardly an fp16 kernel for CPUs, computes a chain of
    convolutions in fp32 throughout; where values are only moved, they are in fp16 indeed.
    """

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.up.weight *= gain
            self.down.weight /= gain**0.5
        self.gain = gain**0.5

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.up(x).chunk(2, dim=1)
        y: Tensor = self.down(torch.cat([right, left], dim=1)) / self.gain
        return x + y


class Decode(nn.Module):
    """Boxes in pixels and probabilities in one tensor."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        steps = torch.arange(8, dtype=torch.float32) * 8 + 4
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        centres = torch.stack([columns.flatten(), rows.flatten()]).unsqueeze(0)
        return torch.cat([centres + flat[:, :2], nn.functional.softplus(flat[:, 2:4]) * 8, flat[:, 4:].sigmoid()], 1)


class Net(nn.Module):
    """A detector of two classes on 64x64 images, at stride 8."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.stem, self.middle, self.last = Block(3, 8), Block(8, 16), Block(16, 16)
        self.loud = Loud(16, gain)
        self.head, self.decode = nn.Conv2d(16, 6, 1), Decode()
        with torch.no_grad():
            self.head.weight *= 3

    def forward(self, images: Tensor) -> Tensor:
        decoded: Tensor = self.decode(self.head(self.loud(self.last(self.middle(self.stem(images))))))
        return decoded


class Two(nn.Module):
    """Two outputs of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def detector(**options: Any) -> Model:
    torch.manual_seed(0)
    task = Detect(("one", "other"), (SIDE, SIDE), strides=(8,))
    signature = Signature(
        (TensorSpec("images", "float32", (1, 3, SIDE, SIDE)),), (TensorSpec("found", "float32", (1, 6, 64)),)
    )
    network = Net(**options).requires_grad_(False)
    network(torch.cat([torch.from_numpy(task.prepare(image).tensors[0]) for image in photographs(8)]))
    network.eval()
    return Model("net", {"main": Graph(network, signature)}, Source("net", "factory", "0" * 64), contract_of(task))


def photographs(count: int, light: float = 1.0, first: int = 0) -> list[Array]:
    """Smooth fields with squares on them."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    pictures: list[Array] = []
    for i in range(first, first + count):
        generator = np.random.default_rng(i)
        image = np.stack([y, x, 1 - y], axis=-1) * 120 * generator.random(3) + 40
        for row, column in generator.integers(0, SIDE - 16, (5, 2)):
            image[row : row + 16, column : column + 16] = generator.integers(0, 256, 3)
        pictures.append((image * light).clip(0, 255).astype(np.uint8))
    return pictures


def exported(model: Model, folder: Path, precision: str, samples: list[Any], **options: Any) -> Artifact:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, options)
    evidence = Evidence(samples, "mine", CalibrationRecord("mine", len(samples), "0" * 64))
    return export(model, Request(exporter, evidence), folder)


def climbed(model: Model, artifact: Artifact, samples: list[Any] | None = None) -> Ladder:
    evidence = Evidence(photographs(4, first=100) if samples is None else samples, "others")
    return climb(model, artifact, evidence, threads=1)


def changed(artifact: Artifact, change: Callable[[Any], None]) -> Artifact:
    """The bundle with another graph inside, and a manifest that says it is right."""
    path = artifact.files["main"]
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)
    return resealed(artifact)


def resealed(artifact: Artifact, **fields: Any) -> Artifact:
    (artifact.path / MANIFEST).unlink()
    seal(artifact.path, dataclasses.replace(artifact.manifest, **fields))
    return Artifact.open(artifact.path)


def repaired(model: Model, artifact: Artifact, ladder: Ladder, folder: Path) -> Fix:
    samples = photographs(8)
    calibration = Evidence(samples, "mine", CalibrationRecord("mine", len(samples), "0" * 64))
    again = Again(calibration, Evidence(photographs(4, first=100), "others"), folder / "fixed", threads=1)
    return fix(model, artifact, ladder, again)


def rungs(ladder: Ladder) -> dict[str, Rung]:
    return {rung.name: rung for rung in ladder.rungs}


def states(ladder: Ladder) -> dict[str, str]:
    return {rung.name: rung.state for rung in ladder.rungs}


# What is right


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_rung_of_a_good_export_holds(precision: str, tmp_path: Path) -> None:
    model = detector()
    ladder = climbed(model, exported(model, tmp_path, precision, photographs(8)))
    lowered = [] if precision == "fp32" else [f"{precision} ONNX"]
    assert list(states(ladder)) == ["eager", "input", "exported program", "ONNX", *lowered, "artifact"]
    assert set(states(ladder).values()) == {"held"}
    assert (ladder.broken, ladder.drift, ladder.findings) == (None, None, ())
    assert ladder.count == 4
    for name in ("exported program", "ONNX"):
        rung = rungs(ladder)[name]
        assert rung.worst is not None
        assert rung.worst.worst_snr > 80
        assert rung.distance == pytest.approx(0, abs=1e-3)


# Faults


def test_a_wrong_colour_order_is_named_with_both_values(tmp_path: Path) -> None:
    model = detector()
    artifact = exported(model, tmp_path, "fp32", photographs(4))
    wrong = resealed(artifact, task={**(artifact.manifest.task or {}), "color": "BGR"})
    ladder = climbed(model, wrong)
    assert ladder.broken == "input"
    (finding,) = ladder.findings
    assert finding.kind == "input"
    assert "color is 'BGR' in the artifact and 'RGB' in the checkpoint" in finding.sentence
    assert "the first sample becomes mean" in finding.sentence
    assert states(ladder)["ONNX"] == "held"
    assert states(ladder)["artifact"] == "broke"


def test_a_clipped_calibration_is_saturation_at_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector()
    dark = photographs(8, light=0.1)
    artifact = exported(model, tmp_path, "int8", dark, limit=1)
    ladder = climbed(model, artifact)
    assert ladder.broken == "artifact"
    assert states(ladder)["int8 ONNX"] == "held"
    (finding,) = ladder.findings
    assert finding.kind == "clipped"
    assert finding.module == "images"
    assert "lie outside the range" in finding.sentence
    assert "Calibrate on images like the device's" in finding.advice
    assert finding.export_again
    fixed = repaired(model, artifact, ladder, tmp_path)
    assert fixed.artifact is not None
    assert fixed.rounds[0].added == ()
    monkeypatch.setattr(plugins.find(plugins.RUNTIMES, "onnxruntime"), "open_tapped", Runtime.open_tapped)
    (finding,) = climbed(model, artifact).findings
    assert (finding.kind, finding.export_again) == ("not seen", True)
    assert "int8 ONNX, made again with ranges from these samples, holds" in finding.sentence


def test_an_overflow_is_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "LARGEST", np.inf)
    model = detector(gain=1e5)
    artifact = exported(model, tmp_path, "fp16", photographs(8), limit=1)
    ladder = climbed(model, artifact)
    assert ladder.broken == "fp16 ONNX"
    (finding,) = ladder.findings
    assert finding.kind == "overflow"
    assert finding.module == "loud.up"
    assert "values at loud.up are NaN or infinite in fp16, none in FP32" in finding.sentence
    fixed = repaired(model, artifact, ladder, tmp_path)
    assert fixed.artifact is not None
    assert fixed.rounds[0].added == ("loud",)
    assert fixed.ladder.broken is None
    kept = Artifact.open(fixed.artifact).manifest.exporter.options["keep_float"]
    assert kept[0] == "loud"
    assert kept[1].startswith("node_Split")  # in the ONNX graph it belongs to no module


def test_a_quantised_decode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QdqLowering, "settle", lambda self, kept: kept)
    model = detector()
    artifact = exported(model, tmp_path, "int8", photographs(8), limit=1)
    ladder = climbed(model, artifact)
    assert ladder.broken == "int8 ONNX"
    (finding,) = ladder.findings
    assert finding.kind == "precision"
    assert finding.module == "decode"
    before = Artifact.open(artifact.path).digest
    fixed = repaired(model, artifact, ladder, tmp_path)
    assert fixed.artifact is not None
    assert "decode" in fixed.rounds[0].added
    assert "every rung holds" in fixed.rounds[-1].sentence
    assert Artifact.open(artifact.path).digest == before
    assert sorted(p.name for p in (tmp_path / "fixed").iterdir()) == ["net.edge"]


def test_swapped_outputs_are_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    outputs = tuple(TensorSpec(name, "float32", (1, 4, 30, 30)) for name in ("one", "other"))
    signature = Signature((TensorSpec("x", "float32", (1, 3, 32, 32)),), outputs)
    model = Model("two", {"main": Graph(Two().eval(), signature)}, Source("two", "factory", "0" * 64))
    samples = [np.random.default_rng(i).random((1, 3, 32, 32), np.float32) for i in range(3)]

    def swap(proto: Any) -> None:
        names = {"one": "other", "other": "one"}
        for node in proto.graph.node:
            for i, name in enumerate(node.output):
                node.output[i] = names.get(name, name)

    ladder = climbed(model, changed(exported(model, tmp_path, "fp32", samples), swap), samples)
    assert ladder.broken == "artifact"
    (finding,) = ladder.findings
    assert finding.kind == "swapped"
    assert "'one' is in the place of 'other', 'other' is in the place of 'one'" in finding.sentence


def perturbed(path: str) -> Callable[[Any], None]:
    """Another weight in the convolution of a module."""

    def change(proto: Any) -> None:
        weights = {weight.name: weight for weight in proto.graph.initializer}
        made = {output: node for node in proto.graph.node for output in node.output}
        (conv,) = [n for n in proto.graph.node if n.op_type == "Conv" and module_path(n).startswith(path)]
        name = conv.input[1]
        weight = weights[made[name].input[0] if name in made else name]
        values = onnx.numpy_helper.to_array(weight).copy()
        values[0] = -values[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))

    return change


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_that_is_not_what_was_written_is_named_with_its_module(precision: str, tmp_path: Path) -> None:
    model = detector()
    artifact = exported(model, tmp_path, precision, photographs(8))
    ladder = climbed(model, changed(artifact, perturbed("middle")))
    assert ladder.broken == "artifact"
    (finding,) = ladder.findings
    assert finding.kind == "not as written"
    assert "The exporter's own steps, made again" in finding.sentence
    assert finding.module is not None
    assert finding.module.startswith("middle.")
    assert ladder.drift is not None
    assert ladder.drift.before is not None
    assert ladder.drift.before.module.startswith("stem")


# Other ways in


def test_a_model_given_as_onnx_is_held_against_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules are known by what the file says of its nodes; a bad export says so at once."""
    monkeypatch.setattr(QdqLowering, "settle", lambda self, kept: kept)
    file = exported(detector(), tmp_path, "fp32", photographs(2)).files["main"].rename(tmp_path / "net.onnx")
    model = load(file)
    artifact = exported(model, tmp_path / "int8", "int8", photographs(8), limit=1)
    ladder = climbed(model, artifact)
    assert list(states(ladder)) == ["float ONNX", "input", "exported program", "ONNX", "int8 ONNX", "artifact"]
    assert rungs(ladder)["exported program"].seen == "the model is an ONNX file"
    assert ladder.broken == "int8 ONNX"
    assert ladder.findings[0].module == "decode"
    notes = after_export(str(file), artifact, lambda _: None)
    assert "int8 ONNX breaks on the golden samples" in notes[0]
    assert "decode" in notes[0]
    assert "--ladder --fix" in notes[1]


def test_after_a_good_export_there_is_nothing_to_say(tmp_path: Path) -> None:
    artifact = exported(detector(), tmp_path, "int8", photographs(8))
    assert after_export("nothing that could be loaded", artifact, lambda _: None) == []


def test_what_cannot_run_here_is_skipped_and_said(tmp_path: Path) -> None:
    model = detector()
    artifact = exported(model, tmp_path, "fp32", photographs(2))
    elsewhere = dataclasses.replace(artifact.manifest.exporter, name="nowhere", runtime="nowhere")
    ladder = climbed(model, resealed(artifact, exporter=elsewhere), photographs(2))
    assert states(ladder)["artifact"] == "skipped"
    assert "nowhere" in rungs(ladder)["artifact"].seen
    assert verdict(ladder).startswith("not known: the artifact did not run here")


def test_a_graph_that_does_not_load_is_broken(tmp_path: Path) -> None:
    model = detector()
    artifact = exported(model, tmp_path, "fp32", photographs(2))
    artifact.files["main"].write_bytes(b"no graph")
    ladder = climbed(model, resealed(artifact), photographs(2))
    assert ladder.broken == "artifact"
    assert ladder.findings[0].kind == "not seen"
    assert ladder.findings[0].sentence.startswith("artifact does not run: ONNX Runtime cannot load main.onnx")


def test_a_ladder_is_plain_json(tmp_path: Path) -> None:
    model = detector()
    wrong = changed(exported(model, tmp_path, "fp32", photographs(4)), perturbed("middle"))
    ladder = climbed(model, wrong, photographs(2))
    assert from_json(Ladder, json.loads(canonical(to_json(ladder))), "ladder") == ladder
