"""The Core ML exporter on small networks: a package, interpreted, computes what the network computes in PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

import torch
from edgedeploy_coreml.package import read
from edgedeploy_coreml.runtime import CoreMLRuntime
from torch import Tensor, nn

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import reference_session
from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import Evidence, Exporter, Job, Request, Written, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.runtime import TAP, Carrying, Session
from edgedeploy.tasks import Detect, contract_of, from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

SIDE = 32


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Convolutions with what follows them, two branches joined, and a weight that is worth storing in few bits."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU())
        self.loud = nn.Conv2d(32, 32, 3, 1, 1)
        self.quiet = nn.Conv2d(32, 32, 3, 1, 1)
        self.head = nn.Conv2d(64, 8, 1)
        with torch.no_grad():
            self.loud.weight *= gain
            self.loud.bias.mul_(gain)  # type: ignore[union-attr]
            self.quiet.weight /= gain

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(torch.cat([y, torch.relu(self.quiet(self.loud(y)))], 1)).flatten(2)  # type: ignore[no-any-return]


def model(network: nn.Module, takes: Sequence[TensorSpec], gives: Sequence[TensorSpec], **more: Any) -> Model:
    signature = Signature(tuple(takes), tuple(gives), more.pop("state", ()))
    graph = Graph(network.eval(), signature, more.pop("stride", 1))
    return Model("net", {"main": graph}, Source("net.pt", "factory", "5" * 64), **more)


def small(gain: float = 1.0) -> Model:
    given = TensorSpec("y", "float32", (1, 8, SIDE * SIDE // 4))
    return model(Net(gain), [TensorSpec("x", "float32", (1, 3, SIDE, SIDE))], [given])


def slopes(count: int = 4) -> list[Array]:
    """Images whose neighbouring pixels are alike."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    return [np.stack([x * i / count, y, 1 - x])[np.newaxis].astype(np.float32) for i in range(1, count + 1)]


def exporter(precision: str, **options: Any) -> Exporter:
    made: Exporter = plugins.find(plugins.EXPORTERS, "coreml").for_device(None, precision, options)
    return made


def exported(
    what: Model, folder: Path, precision: str, samples: Sequence[Any] | None = None, **options: Any
) -> Artifact:
    evidence = Evidence(samples or slopes(), "mine", CalibrationRecord("mine", 4, "0" * 64))
    return export(what, Request(exporter(precision, **options), evidence), folder)


def written(what: Model, folder: Path, precision: str, samples: Sequence[Prepared] = (), **options: Any) -> Written:
    """Without the core's own checks, which need a reference that runs the model."""
    job = Job(what, Raw(), folder, reference_session(what), samples, lambda _: None)
    return exporter(precision, **options).write(job)


def opened(artifact: Artifact, tapped: bool = False, **options: Any) -> Session:
    runtime = CoreMLRuntime(threads=1, **options)
    open_ = runtime.open_tapped if tapped else runtime.open
    return open_(artifact.files, artifact.signatures)


def decided(artifact: Artifact) -> Mapping[str, Any]:
    found: Mapping[str, Any] = artifact.manifest.exporter.decisions["main"]
    return found


def worst(artifact: Artifact) -> float:
    return min(a.snr for g in artifact.manifest.golden for a in g.agreement)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(small(), tmp_path_factory.mktemp("fp32"), "fp32")


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(small(), tmp_path_factory.mktemp("fp16"), "fp16")


def close(got: Any, wanted: Any, atol: float, err_msg: str = "") -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=atol, err_msg=err_msg)


def furthest(session: Session, x: Mapping[str, Array], wanted: Any) -> float:
    return float(np.abs(session.run(x)["y"] - wanted).max())


# Precisions


def test_fp32_is_what_pytorch_computes(fp32: Artifact) -> None:
    assert worst(fp32) > 120
    assert fp32.manifest.requires == ("coreml>=8",)
    assert fp32.files["main"].name == "main.mlpackage"
    facts = opened(fp32).facts
    assert facts["computes_in"] == "fp32"
    assert facts["threads"] == 1
    assert facts["emulated"] == "Core ML reference interpreter (torch), not a device"
    assert "runs on iOS 17, macOS 14 and newer" in fp32.manifest.notes


def test_fp16_rounds_and_is_half_the_size(fp32: Artifact, fp16: Artifact) -> None:
    assert 50 < worst(fp16) < 90
    assert fp16.model_size < 0.65 * fp32.model_size
    assert decided(fp16)["kept_in_float"] == []
    assert opened(fp16).facts["computes_in"] == "fp16"
    assert opened(fp16, arithmetic="exact").facts["computes_in"] == "fp32"
    x = {"x": slopes()[0]}
    wanted = opened(fp32).run(x)["y"]
    errors = [furthest(opened(fp16, arithmetic=a), x, wanted) for a in ("program", "exact")]
    assert 0 < errors[1] < errors[0]


def test_what_leaves_the_range_of_fp16_stays_in_fp32(tmp_path: Path) -> None:
    artifact = exported(small(gain=1e5), tmp_path, "fp16")
    assert set(decided(artifact)["kept_in_float"]) == {"loud", "quiet"}
    assert worst(artifact) > 50
    assert opened(artifact).facts["computes_in"] == "fp16 and fp32"


def test_a_module_can_be_kept_in_float(tmp_path: Path) -> None:
    artifact = exported(small(), tmp_path, "fp16", keep_float="stem")
    kept = decided(artifact)["kept_in_float"]
    assert kept
    assert all(path.startswith("stem.") for path in kept)
    with pytest.raises(UsageError, match="belongs to a module 'backbone'"):
        exported(small(), tmp_path / "other", "fp16", keep_float="backbone")


@pytest.mark.parametrize(
    ("weights", "least", "most", "smaller"),
    [("int8", 45, 70, 0.75), ("int4", 15, 45, 0.65), ("palette6", 25, 60, 0.75), ("palette4", 15, 45, 0.65)],
)
def test_weights_in_few_bits(
    weights: str, least: float, most: float, smaller: float, fp16: Artifact, tmp_path: Path
) -> None:
    artifact = exported(small(), tmp_path, "fp16", weights=weights)
    assert least < worst(artifact) < most
    assert artifact.model_size < smaller * fp16.model_size
    assert decided(artifact)["weights"]["lowered"] == 2  # those with more than 2048 weights
    assert decided(artifact)["target"] == ("iOS18" if weights == "int4" else "iOS17")


def test_weights_can_stay_as_they_are(tmp_path: Path) -> None:
    artifact = exported(small(), tmp_path / "some", "fp16", weights="palette4", keep_float="quiet")
    assert decided(artifact)["weights"]["kept_in_float"] == ["quiet"]
    with pytest.raises(ExportFailed, match=r"With weights in palette4: No part of the graph"):
        exported(small(), tmp_path / "none", "fp16", weights="palette4", limit=0.001)


@pytest.mark.parametrize("activations", ["affine", "symmetric"])
def test_int8_weights_and_activations(activations: str, tmp_path: Path) -> None:
    artifact = exported(small(), tmp_path, "int8", activations=activations)
    assert worst(artifact) > 25
    program = read(artifact.files["main"]).program()
    kinds = [op.op_type for op in program.functions["main"].operations]
    assert kinds.count("quantize") >= 3
    assert "constexpr_affine_dequantize" in kinds or "constexpr_blockwise_shift_scale" in kinds
    assert opened(artifact).facts["computes_in"] == "int8 and fp16"


# Other kinds of networks


class Cell(nn.Module):
    """State goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new = torch.tanh(self.mix(x) + 0.5 * h)
        return 2 * new, new


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_state_is_carried_and_reset(precision: str, tmp_path: Path) -> None:
    state = (StateSpec("h", "h_next", "float32", (1, 8)),)
    what = model(Cell(), [TensorSpec("x", "float32", (1, 8))], [TensorSpec("y", "float32", (1, 8))], state=state)
    done = written(what, tmp_path, "fp32") if precision == "fp32" else None
    if done is None:
        with pytest.raises(UsageError, match="real samples"):  # nothing to check fp16 on
            written(what, tmp_path, precision)
        return
    assert done.requires == ("coreml>=9",)
    assert any("Core ML has state in fp16 only" in note for note in done.notes)
    session = CoreMLRuntime().open({"main": tmp_path / done.files["main"]}, done.signatures)
    inputs, h = np.random.default_rng(0).standard_normal((3, 1, 8)).astype(np.float32), torch.zeros(1, 8)
    wanted = []
    for x in inputs:
        y, h = what.graphs["main"].network(torch.from_numpy(x), h)
        wanted.append(y.detach().numpy())
    for _ in range(2):
        for x, y in zip(inputs, wanted, strict=True):
            close(session.run({"x": x})["y"], y, atol=2e-3)
        session.reset()


class Words(nn.Module):
    """Whole numbers in and out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.out = nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.table(tokens) * mask.unsqueeze(-1)
        logits = self.out(torch.nn.functional.gelu(hidden))
        return logits, logits.argmax(-1)


def test_whole_numbers_in_and_out(tmp_path: Path) -> None:
    takes = [TensorSpec("tokens", "int64", (1, 7)), TensorSpec("mask", "float32", (1, 7))]
    gives = [TensorSpec("logits", "float32", (1, 7, 50)), TensorSpec("best", "int64", (1, 7))]
    what = model(Words(), takes, gives)
    done = written(what, tmp_path, "fp32")
    feed: dict[str, Array] = {"tokens": np.arange(7, dtype=np.int64)[None] * 7, "mask": np.ones((1, 7), np.float32)}
    got = CoreMLRuntime().open({"main": tmp_path / done.files["main"]}, done.signatures).run(feed)
    wanted = reference_session(what).run(feed)
    close(got["logits"], wanted["logits"], atol=1e-5)
    np.testing.assert_array_equal(got["best"], wanted["best"])
    assert got["best"].dtype == np.int64


def test_dynamic_batch_and_size(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 2, 1))
    takes = [TensorSpec("x", "float32", ("batch", 3, "height", "width"))]
    what = model(network, takes, [TensorSpec("y", "float32", ("batch", 2, "rows", "columns"))], stride=8)
    done = written(what, tmp_path, "fp32")
    session = CoreMLRuntime().open({"main": tmp_path / done.files["main"]}, done.signatures)
    for shape in ((1, 3, 32, 32), (3, 3, 16, 40)):
        x = {"x": np.random.default_rng(0).random(shape, np.float32)}
        close(session.run(x)["y"], reference_session(what).run(x)["y"], atol=1e-5)


# Images


class Rows(nn.Module):
    """A detector of one box, whose score is how bright the image is."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.mean((1, 2, 3)).reshape(-1, 1, 1)
        return torch.cat([score * 0 + v for v in (5.0, 4.0, 14.0, 20.0)] + [score, score * 0], dim=2)


def detector(task: Detect) -> Model:
    takes, gives = TensorSpec("images", "float32", (1, 3, SIDE, SIDE)), TensorSpec("rows", "float32", (1, 1, 6))
    return model(Rows(), [takes], [gives], task=contract_of(task))


@pytest.mark.parametrize(("color", "mean", "std"), [("RGB", 0.0, 255.0), ("BGR", 30.0, 100.0)])
def test_an_image_input_takes_pixels(color: Any, mean: float, std: float, tmp_path: Path) -> None:
    task = Detect(
        ("thing",), (SIDE, SIDE), color=color, mean=(mean, mean + 1, mean + 2), std=(std,) * 3, head="end2end"
    )
    picture = np.random.default_rng(0).integers(120, 255, (SIDE, 48, 3)).astype(np.uint8)
    artifact = exported(detector(task), tmp_path, "fp32", [picture], image_input=True)
    assert all(g.distance is not None and g.distance < 1e-3 for g in artifact.manifest.golden)
    (given,) = read(artifact.files["main"]).spec.description.input
    image = given.type.imageType
    assert (image.width, image.height, image.ColorSpace.Name(image.colorSpace)) == (SIDE, SIDE, color)
    assert f"{color} image, letterboxed to 32 x 32" in given.shortDescription


def test_an_image_needs_a_contract_with_one_scale(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a task whose input is an image"):
        exported(small(), tmp_path, "fp32", image_input=True)
    task = Detect(("thing",), (SIDE, SIDE), std=(58.0, 57.0, 57.0), head="end2end")
    with pytest.raises(UsageError, match="one scale for all channels"):
        exported(detector(task), tmp_path, "fp32", [np.full((8, 8, 3), 200, np.uint8)], image_input=True)


# What is inside


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_modules_can_be_looked_into(precision: str, tmp_path: Path) -> None:
    what = small()
    session = opened(exported(what, tmp_path, precision), tapped=True)
    seen: dict[str, Array] = {}
    network = what.graphs["main"].network
    for path, module in network.named_modules():
        module.register_forward_hook(lambda m, i, o, path=path: seen.update({path: o.detach().numpy().copy()}))
    x = slopes()[1]
    with torch.no_grad():
        network(torch.from_numpy(x))
    found = {k.removeprefix(TAP): v for k, v in session.run({"x": x}).items() if k.startswith(TAP)}
    assert {"stem.2", "stem", "loud", "head"} <= set(found)
    for path, values in found.items():
        tolerance = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2}[precision]
        assert values.dtype == np.float32
        close(values, seen[path], atol=tolerance, err_msg=path)


def test_the_package_says_what_it_is(tmp_path: Path) -> None:
    task = Detect(("thing", "other, thing"), (SIDE, SIDE), head="end2end")
    artifact = exported(detector(task), tmp_path, "fp32", [np.full((8, 8, 3), 200, np.uint8)])
    description = read(artifact.files["main"]).spec.description
    user = description.metadata.userDefined
    assert description.metadata.author == ""
    assert description.metadata.versionString == "5" * 12
    assert user["edgedeploy.source"] == "sha256:" + "5" * 64
    assert from_contract(json.loads(user["edgedeploy.task"])) == task
    assert user["classes"] == "thing,other  thing"
    assert "RGB image, letterboxed to 32 x 32" in description.input[0].shortDescription
    assert description.output[0].shortDescription == "float32 [1, 1, 6]"


def test_the_same_twice_and_nothing_of_the_users_code(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        root = exported(small(), tmp_path / name, "fp16").files["main"]
        files.append({p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
    assert files[0] == files[1]
    assert [str(p) for p in files[0]] == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    assert not any(Path(__file__).name.encode() in data for data in files[0].values())


def test_the_steps_before_the_package(tmp_path: Path) -> None:
    what, samples = small(), [Prepared((x,)) for x in slopes()]
    job = Job(what, Raw(), tmp_path, reference_session(what), samples, lambda _: None)
    for precision, options, names in (
        ("fp16", {"weights": "palette4"}, ["ML program in fp32", "ML program in fp16"]),
        ("int8", {}, ["ML program in fp32", "program in int8 (PT2E)"]),
    ):
        how = exporter(precision, **options)
        steps = list(how.steps(job, how.write(job).decisions))
        assert [step.name for step in steps] == names
        x = {"x": slopes()[0]}
        wanted = job.reference.run(x)["y"]
        errors = [furthest(step.session, x, wanted) for step in steps]
        assert errors[0] < 1e-5 < errors[1] < 0.1


# Core ML itself, on macOS: a stand-in for its model class, since it does not run elsewhere


class Stand:
    """Takes what Core ML Tools' model class takes; computes by the interpreter."""

    def __init__(self, path: str, compute_units: Any) -> None:
        from edgedeploy_coreml.mil import Interpreter

        self.given: list[Any] = []
        self._interpreter = Interpreter(read(Path(path)).program())

    def make_state(self) -> Stand:
        self._interpreter.reset()
        return self

    def read_state(self, name: str) -> Any:
        return self._interpreter.state[name].astype(np.float16)

    def write_state(self, name: str, value: Any) -> None:
        assert value.dtype == np.float16
        self._interpreter.state = self._interpreter.state | {name: value}

    def predict(self, feed: Mapping[str, Any], state: object = None) -> Mapping[str, Any]:
        self.given = [*feed.values(), state]
        arrays = {
            k: np.asarray(v, np.float32).transpose(2, 0, 1)[None] if hasattr(v, "size") and hasattr(v, "mode") else v
            for k, v in feed.items()
        }
        return self._interpreter.run(arrays)


@pytest.mark.parametrize("kind", ["tensor", "image", "state"])
def test_core_ml_is_given_what_it_takes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedeploy_coreml.apple import AppleSession

    task = Detect(("thing",), (SIDE, SIDE), head="end2end")
    state = (StateSpec("h", "h_next", "float32", (1, 8)),)
    row = [TensorSpec("x", "float32", (1, 8))]
    cell = model(Cell(), row, [TensorSpec("y", "float32", (1, 8))], state=state)
    what = {"tensor": small(), "image": detector(task), "state": cell}[kind]
    if kind == "image":
        job = Job(what, task, tmp_path, reference_session(what), (), lambda _: None)
        done = exporter("fp32", image_input=True).write(job)
    else:
        done = written(what, tmp_path, "fp32")
    files = {"main": tmp_path / done.files["main"]}
    monkeypatch.setattr("coremltools.models.MLModel", Stand)
    session = AppleSession({"main": read(files["main"])}, done.signatures, "cpu_and_ne")
    ours = CoreMLRuntime().open(files, done.signatures)
    spec = what.graphs["main"].signature.inputs[0]
    pixels = np.random.default_rng(0).integers(0, 255, spec.resolve({})).astype(np.float32)
    for _ in range(2):
        x = {spec.name: pixels / np.float32(255)}
        for name, values in ours.run(x).items():
            close(session.run(x)[name], values, atol=1e-6)
    if kind == "state":
        assert isinstance(session, Carrying)
        assert isinstance(ours, Carrying)
        for one, other in ((session, ours), (ours, session)):
            one.restore(other.state())
            np.testing.assert_array_equal(one.state()["h"], other.state()["h"])
    (given, used), facts = session._models["main"].given, session.facts
    assert getattr(given, "mode", None) == ("RGB" if kind == "image" else None)
    assert (used is not None) == (kind == "state")
    assert facts["compute_units"] == "cpu_and_ne"
    assert str(facts["placement"]).startswith("unknown (")  # the stand-in has no plan
    assert "emulated" not in facts


# What is refused


class Values(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x)
        return values


class Deep(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), inner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def test_an_operator_that_core_ml_lacks_is_named_with_its_module(tmp_path: Path) -> None:
    what = model(Deep(Values()), [TensorSpec("x", "float32", (1, 4, 4))], [TensorSpec("y", "float32", (1, 4))])
    with pytest.raises(ExportFailed) as caught:
        exported(what, tmp_path, "fp32", [np.eye(4, dtype=np.float32)[None]])
    assert "no conversion for the operator aten" in str(caught.value)
    assert "svd" in str(caught.value)
    assert "in module 'body.1'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "options", "said"),
    [
        ("bf16", {}, "no precision 'bf16'. Known: fp32, fp16, int8"),
        ("fp16", {"targets": "iOS17"}, "no option 'targets'. Did you mean 'target'"),
        ("fp16", {"target": "iOS12"}, "target"),
        (
            "fp16",
            {"weights": "int4", "target": "iOS17"},
            "weights in int4 from iOS18 on, not in iOS17: add target=iOS18",
        ),
        ("int8", {"target": "iOS16"}, "activations in int8 from iOS17 on, not in iOS16"),
        ("fp32", {"weights": "int8"}, "Weights in int8 go with precision fp16, not with fp32"),
        ("fp16", {"weights": "int3"}, "weights"),
        ("fp16", {"image_input": "yes"}, "image_input: expected true or false"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(precision: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        exporter(precision, **options)
    assert said in str(caught.value)


def test_state_needs_a_newer_target(tmp_path: Path) -> None:
    state = (StateSpec("h", "h_next", "float32", (1, 8)),)
    what = model(Cell(), [TensorSpec("x", "float32", (1, 8))], [TensorSpec("y", "float32", (1, 8))], state=state)
    with pytest.raises(UsageError, match="state that is carried from call to call from iOS18 on, not in iOS17"):
        written(what, tmp_path, "fp32", target="iOS17")


@pytest.mark.parametrize(
    ("system", "target"),
    [
        ("iOS", None),
        ("iOS 18.1", "iOS18"),
        ("iOS 15", None),
        ("macOS 14", "iOS17"),
        ("macOS 26", "iOS26"),
        ("Linux", None),
    ],
)
def test_the_target_follows_the_device(system: str, target: str | None) -> None:
    phone = dataclasses.replace(device.load("iphone-15"), os=system)
    made = plugins.find(plugins.EXPORTERS, "coreml").for_device(phone, "fp16", {})
    assert made.target == target


def test_what_a_phone_is_known_to_have() -> None:
    (unknown,) = device.unmet(("coreml>=8",), device.load("iphone-15"))
    assert not unknown.known
    (missing,) = device.unmet(("coreml>=8",), device.load("jetson-orin-nano"))
    assert missing.known


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "0 threads cannot run anything"),
        ({"compute_units": "tpu"}, "no compute units 'tpu'. Known: all, cpu, cpu_and_gpu, cpu_and_ne"),
        ({"arithmetic": "fp8"}, "no arithmetic 'fp8'. Known: program, exact"),
    ],
)
def test_a_session_that_cannot_be_is_refused(options: dict[str, Any], said: str, fp32: Artifact) -> None:
    with pytest.raises(UsageError) as caught:
        CoreMLRuntime(**options).open(fp32.files, fp32.signatures)
    assert said in str(caught.value)
