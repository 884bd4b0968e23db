"""The ExecuTorch exporter on small networks: what it writes computes in the runtime what PyTorch computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("executorch")
pytest.importorskip("torchao")

import torch
from torch import nn

from edgedeploy import plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.capture import EagerSession, reference_session
from edgedeploy.errors import ExportFailed, Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.exporter import Evidence, Exporter, Job, Request, Written, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.runtime import Session
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

SOURCE = Source("net.pt", "factory", "0" * 64)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Two layers, a skip connection, and a head that gives one thing in pixels beside one in 0..1."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.SiLU()
        self.body = nn.Conv2d(width, width, 3, 1, 1)
        self.head = Head(2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.act(self.norm(self.stem(x)))
        found: torch.Tensor = self.head(torch.cat([first, self.act(self.body(first))], 1))
        return found


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1)
        self.decode = Decode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.decode(self.boxes(x), self.scores(x))
        return decoded


class Decode(nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.cat([(boxes + 2.0) * 320.0, scores.sigmoid()], 1).flatten(2)


def net(batch: int | str = 1, side: int = 32, width: int = 16) -> Model:
    network = Net(width).eval().requires_grad_(False)
    cells = (side // 2) ** 2
    signature = Signature(
        (TensorSpec("image", "float32", (batch, 3, side, side)),), (TensorSpec("found", "float32", (batch, 8, cells)),)
    )
    return Model("net", {"main": Graph(network, signature)}, SOURCE)


def slopes(count: int, side: int = 32, batch: int = 1) -> list[tuple[Array, ...]]:
    """Images without noise, each of another brightness."""
    ramp = np.linspace(0, 1, side * side, dtype=np.float32).reshape(side, side)
    image = np.stack([ramp, ramp.T, 1 - ramp])
    return [(np.repeat((image * (i + 1) / count)[None], batch, axis=0),) for i in range(count)]


def exporter(precision: str = "fp32", **options: Any) -> Exporter:
    made: Exporter = plugins.find(plugins.EXPORTERS, "executorch").for_device(None, precision, options)
    return made


def exported(model: Model, folder: Path, precision: str = "fp32", count: int = 8, **options: Any) -> Artifact:
    evidence = Evidence(slopes(count), "slopes", CalibrationRecord("slopes", count, "0" * 64))
    return export(model, Request(exporter(precision, **options), evidence), folder)


def opened(artifact: Artifact, threads: int | None = 1) -> Session:
    runtime = plugins.find(plugins.RUNTIMES, "executorch")
    session: Session = runtime(threads=threads).open(artifact.files, artifact.signatures)
    return session


def written(
    model: Model, folder: Path, precision: str = "fp32", samples: Sequence[Prepared] = (), **options: Any
) -> tuple[Written, Session]:
    """The exporter alone, for models that `export` has no golden vectors for yet."""
    folder.mkdir(exist_ok=True)
    job = Job(model, Raw(), folder, reference_session(model), samples, lambda _: None)
    done = exporter(precision, **options).write(job)
    runtime = plugins.find(plugins.RUNTIMES, "executorch")(threads=1)
    return done, runtime.open({name: folder / file for name, file in done.files.items()}, done.signatures)


def same(wanted: Any, got: Any) -> None:
    np.testing.assert_allclose(got, np.asarray(wanted), atol=1e-6)


def snr(wanted: Array, got: Array) -> float:
    noise = float(np.linalg.norm(np.subtract(wanted, got, dtype=np.float64)))
    return math.inf if noise == 0 else 20 * math.log10(float(np.linalg.norm(wanted)) / noise)


def decided(artifact: Artifact) -> Mapping[str, Any]:
    found: Mapping[str, Any] = artifact.manifest.exporter.decisions["main"]
    return found


# Precisions


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(net(), tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(net(), tmp_path_factory.mktemp("eight"), "int8")


def test_fp32_computes_what_pytorch_computes(good: Artifact) -> None:
    artifact = good
    assert artifact.files["main"].name == "model.pte"
    assert artifact.manifest.requires == ("executorch>=1.4",)
    assert all(one.worst_snr > 100 for golden in artifact.manifest.golden for one in golden.agreement)
    delegated = decided(artifact)["delegated"]
    assert delegated["share"] > 0.7
    assert delegated["groups"] >= 1
    session = opened(artifact)
    assert session.facts["computes_in"] == "fp32"
    assert session.facts["delegates"] == "XnnpackBackend"
    assert session.facts["threads"] == 1


def test_fp16_is_computed_in_fp16_and_callers_see_float32(tmp_path: Path) -> None:
    half = exported(net(width=64), tmp_path, "fp16")
    assert any("holds the weights of convolutions in fp32" in note for note in half.manifest.notes)
    assert decided(half)["delegated"]["groups"] <= 3
    assert decided(half)["lowered"] > 5
    assert opened(half).facts["computes_in"] == "fp16"
    sample = slopes(8)[5][0]
    wanted = EagerSession(net(width=64)).run({"image": sample})["found"]
    got = opened(half).run({"image": sample})["found"]
    assert got.dtype == np.float32
    assert 40 < snr(wanted[:, 4:], got[:, 4:]) < 90


def test_fp16_of_the_portable_kernels_is_half_the_size(tmp_path: Path) -> None:
    half = exported(net(width=64), tmp_path, "fp16", delegate="portable")
    weights = 4 * sum(p.numel() for p in net(width=64).graphs["main"].network.parameters())
    assert half.model_size < 0.7 * weights
    assert all(golden.distance is not None and golden.distance < 0.01 for golden in half.manifest.golden)


def test_fp16_keeps_what_leaves_its_range_in_float(tmp_path: Path) -> None:
    """Values of 20000 fit, but leave too little room for the sums behind them."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.far, self.back = Net(), Scale(30), Scale(1 / 30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.back(self.far(self.net(x)))
            return found

    model = net()
    network = Wide().eval().requires_grad_(False)
    model = Model("wide", {"main": Graph(network, model.graphs["main"].signature)}, SOURCE)
    artifact = exported(model, tmp_path, "fp16", keep_float="net.body")
    kept = decided(artifact)["kept_in_float"]
    assert {"far", "back", "net.body"} <= set(kept)
    assert "net.stem" not in kept
    assert all(golden.distance is not None and golden.distance < 0.03 for golden in artifact.manifest.golden)


class Scale(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


def test_int8_leaves_the_decoding_in_float_by_measuring(eight: Artifact) -> None:
    artifact = eight
    found = decided(artifact)
    assert found["distance_all_lowered"] > 0.15
    assert found["distance"] <= 0.15
    assert "head.decode" in found["kept_in_float"]
    assert not {"stem", "body"} & set(found["kept_in_float"])
    assert opened(artifact).facts["computes_in"] == "int8 and fp32"
    assert any("calibrated on 8 samples" in note for note in artifact.manifest.notes)
    sample = slopes(8)[6][0]
    wanted = EagerSession(net()).run({"image": sample})["found"]
    got = opened(artifact).run({"image": sample})["found"]
    assert 20 < snr(wanted[:, 4:], got[:, 4:]) < 80


def test_steps_are_made_again_without_a_search(eight: Artifact, tmp_path: Path) -> None:
    samples = [Prepared(sample) for sample in slopes(8)]
    job = Job(net(), Raw(), tmp_path, reference_session(net()), samples, lambda _: None)
    steps = list(exporter("int8").steps(job, eight.manifest.exporter.decisions))
    assert [step.name for step in steps] == ["exported program", "int8 program"]
    inputs = {"image": slopes(8)[3][0]}
    wanted, lowered, file = (s.run(inputs)["found"] for s in (steps[0].session, steps[1].session, opened(eight)))
    assert snr(EagerSession(net()).run(inputs)["found"], wanted) > 100
    assert snr(lowered[:, 4:], file[:, 4:]) > 30
    assert snr(wanted[:, 4:], lowered[:, 4:]) < 80


# Shapes


def test_a_dynamic_batch_is_one_method_within_bounds(tmp_path: Path) -> None:
    artifact = exported(net("batch"), tmp_path, largest={"batch": 3})
    assert decided(artifact)["methods"] == ["main"]
    assert decided(artifact)["largest"] == {"batch": 3}
    session, eager = opened(artifact), EagerSession(net("batch"))
    for batch in (1, 2, 3):
        inputs = {"image": slopes(2, batch=batch)[1][0]}
        assert snr(eager.run(inputs)["found"], session.run(inputs)["found"]) > 100
    with pytest.raises(UsageError, match=r"a batch of 1 to 3, but was given 4.*largest='\{\"batch\": 4\}'"):
        session.run({"image": slopes(1, batch=4)[0][0]})


def test_where_the_delegate_cannot_vary_shapes_there_is_a_method_per_batch(tmp_path: Path) -> None:
    """What cannot be tried here (Core ML, Vulkan) is lowered so from the beginning."""
    from edgedeploy_executorch.delegates import find
    from edgedeploy_executorch.methods import Part
    from edgedeploy_executorch.runtime import ExecuTorchRuntime
    from edgedeploy_executorch.writing import Writer

    model = net("batch")
    graph = model.graphs["main"]
    part = Part("main", _program(graph), graph.signature, 1, {"batch": 2})
    _, entries, notes = Writer(tmp_path, find("xnnpack", "fp32"), "fp32", "fp32").write([part], here=False)
    assert dict(entries["main"].methods) == {"1": "main_batch1", "2": "main_batch2"}
    assert notes == [
        "graph 'main' has one method per batch size, 1 to 2: one for all of them does not work "
        "(it cannot be tried on this machine)"
    ]
    session = ExecuTorchRuntime(threads=1).open({"main": tmp_path / "model.pte"}, {"main": graph.signature})
    for batch in (1, 2):
        inputs = {"image": slopes(2, batch=batch)[1][0]}
        assert snr(EagerSession(model).run(inputs)["found"], session.run(inputs)["found"]) > 100
    with pytest.raises(UsageError, match="a batch of 1 to 2, but was given 3"):
        session.run({"image": slopes(1, batch=3)[0][0]})


def _program(graph: Graph) -> Any:
    from edgedeploy.capture import to_program

    return to_program(graph).module(check_guards=False)


def test_results_that_are_wrong_at_another_shape_are_noticed() -> None:
    from edgedeploy_executorch.methods import Part, stuck

    class Wrong(EagerSession):
        def run(self, inputs: Mapping[str, Array], graph: str = "main") -> dict[str, Array]:
            return {name: values * (1 + (len(values) == 2)) for name, values in super().run(inputs, graph).items()}

    class Fails(EagerSession):
        def run(self, inputs: Mapping[str, Array], graph: str = "main") -> dict[str, Array]:
            raise RunFailed("a static tensor")

    model = net("batch")
    part = Part("main", _program(model.graphs["main"]), model.graphs["main"].signature, 1, {"batch": 2})
    assert stuck(part, EagerSession(model)) == ""
    assert stuck(part, Wrong(model)) == "its results at 2x3x32x32 are wrong"
    assert stuck(part, Fails(model)) == "a static tensor"


def test_a_dynamic_size_needs_a_bound() -> None:
    from edgedeploy_executorch.methods import largest_of

    signature = Signature((TensorSpec("x", "float32", (1, 3, "height", "width")),), ())
    with pytest.raises(UsageError, match="plans memory for the largest size"):
        largest_of(signature, 32, {"height": 320})
    with pytest.raises(UsageError, match="multiple of 32 over 0, not 100"):
        largest_of(signature, 32, {"height": 320, "width": 100})
    assert largest_of(signature, 32, {"height": 320, "width": 640}) == {"height": 320, "width": 640}


# Several graphs, and state


class Counter(nn.Module):
    """Carries a running mean and a count from call to call, in its own buffers; ``mean`` is also its output."""

    mean: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.full((1, 4), 0.5))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.mean.copy_(0.5 * self.mean + 0.5 * self.layer(x))
        self.count.add_(1)
        return self.mean, self.count


class Cell(nn.Module):
    """Takes its state and gives it back, as `StateSpec` describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = torch.tanh(self.layer(x) + h)
        return 2 * new, new


def _vector(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, "float32", shape or (1, 4))


def test_buffers_that_the_network_changes_are_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Counter().eval().requires_grad_(False)
    signature = Signature((_vector("x"),), (_vector("mean"), TensorSpec("count", "int64", (1,))))
    done, session = written(Model("counter", {"main": Graph(network, signature)}, SOURCE), tmp_path)
    assert done.decisions["main"]["state"] == ["mean", "count"]
    x = np.ones((1, 4), np.float32)
    runs = [session.run({"x": x}) for _ in range(3)]
    session.reset()
    first = session.run({"x": x})
    assert [int(run["count"][0]) for run in runs] == [1, 2, 3]
    assert int(first["count"][0]) == 1
    np.testing.assert_array_equal(first["mean"], runs[0]["mean"])
    eager = Counter().eval()
    eager.load_state_dict(network.state_dict())
    with torch.no_grad():
        eager.mean.fill_(0.5)
        wanted = [eager(torch.from_numpy(x))[0].numpy().copy() for _ in range(3)]
    for want, got in zip(wanted, runs, strict=True):
        same(want, got["mean"])


def test_a_lower_precision_of_state_is_refused(tmp_path: Path) -> None:
    graph = Graph(Counter().eval(), Signature((_vector("x"),), (_vector("mean"), TensorSpec("count", "int64", (1,)))))
    with pytest.raises(UsageError, match="carries state from call to call"):
        written(Model("counter", {"main": graph}, SOURCE), tmp_path, "int8", [Prepared((np.ones((1, 4), np.float32),))])


def test_declared_state_starts_at_zero_and_is_shared_by_graphs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encode, decode = (Cell().eval().requires_grad_(False) for _ in range(2))
    signature = Signature((_vector("x"),), (_vector("y"),), (StateSpec("h", "h_next", "float32", (1, 4)),))
    graphs = {"main": Graph(encode, signature), "decode": Graph(decode, signature)}
    done, session = written(Model("cells", graphs, SOURCE), tmp_path)
    assert set(done.files.values()) == {"model.pte"}
    assert done.decisions["decode"]["methods"] == ["decode"]
    x, h = np.full((1, 4), 0.3, np.float32), torch.zeros(1, 4)
    with torch.no_grad():
        for name in ("main", "decode", "main"):
            y, h = (encode if name == "main" else decode)(torch.from_numpy(x), h)
            same(y, session.run({"x": x}, name)["y"])
        session.reset()
        y, _ = decode(torch.from_numpy(x), torch.zeros(1, 4))
    same(y, session.run({"x": x}, "decode")["y"])


def test_state_that_starts_like_a_constant_is_not_taken_for_it(tmp_path: Path) -> None:
    network = Cell().eval().requires_grad_(False)
    torch.nn.init.zeros_(network.layer.bias)
    torch.nn.init.eye_(network.layer.weight)
    signature = Signature((_vector("x"),), (_vector("y"),), (StateSpec("h", "h_next", "float32", (1, 4)),))
    model = Model("cell", {"main": Graph(network, signature)}, SOURCE)
    _, session = written(model, tmp_path, delegate="portable")
    x, h = np.full((1, 4), 0.3, np.float32), torch.zeros(1, 4)
    for _ in range(3):
        y, h = network(torch.from_numpy(x), h)
        same(y, session.run({"x": x})["y"])


def test_graphs_without_samples_stay_in_float(tmp_path: Path) -> None:
    model = net()
    other = Graph(nn.Linear(4, 2).eval(), Signature((_vector("x"),), (_vector("y", 1, 2),)))
    model = Model("two", {**model.graphs, "other": other}, SOURCE)
    samples = [Prepared(sample) for sample in slopes(4)]
    done, session = written(model, tmp_path, "int8", samples)
    assert "graph 'other' is in fp32: samples to choose by are of graph 'main'" in done.notes
    x = np.ones((1, 4), np.float32)
    with torch.no_grad():
        same(other.network(torch.ones(1, 4)), session.run({"x": x}, "other")["y"])
    assert session.run({"image": slopes(1)[0][0]})["found"].shape == (1, 8, 256)


# Delegates


@pytest.mark.parametrize(
    ("delegate", "error", "words"),
    [
        ("qualcomm", Unavailable, "QAIRT SDK"),
        ("ethos-u", Unavailable, "ethos-u-vela"),
        ("xnnpak", UsageError, "Did you mean 'xnnpack'"),
    ],
)
def test_delegates_that_cannot_be_lowered_to(delegate: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        exporter(delegate=delegate)


def test_choices_that_a_delegate_makes_itself() -> None:
    with pytest.raises(UsageError, match="in fp32, fp16, not in int8"):
        exporter("int8", delegate="vulkan")
    with pytest.raises(UsageError, match="decides by itself what is in fp16"):
        exporter("fp16", delegate="vulkan", keep_float="stem")


def test_the_portable_kernels_take_nothing_to_a_delegate(tmp_path: Path) -> None:
    artifact = exported(net(), tmp_path, delegate="portable")
    delegated = decided(artifact)["delegated"]
    assert delegated["share"] == 0
    assert "head.boxes" in delegated["fell_back"]["aten.convolution"]
    assert opened(artifact).facts["delegates"] == "none"


@pytest.mark.parametrize("delegate", ["vulkan", "coreml"])
def test_what_cannot_be_run_here_says_so(tmp_path: Path, delegate: str) -> None:
    if delegate == "coreml":
        pytest.importorskip("coremltools")
    artifact = exported(net(), tmp_path, "fp16", delegate=delegate)
    assert decided(artifact)["delegated"]["share"] > 0.9
    assert all(golden.distance is None for golden in artifact.manifest.golden)
    assert any("what fp16 costs was not measured" in note for note in artifact.manifest.notes)
    with pytest.raises(Unavailable, match="Backend, which is not in this ExecuTorch"):
        opened(artifact)


# Bad input, and damage


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 3, 32, 33), np.float32),
        np.zeros((1, 3, 16, 16), np.float32),
        np.zeros((1, 3, 32, 32), np.float64),
        np.zeros((3, 32, 32), np.float32),
        np.zeros((0, 3, 32, 32), np.float32),
    ],
)
def test_inputs_that_a_graph_does_not_take(good: Artifact, image: Array) -> None:
    with pytest.raises(UsageError, match="takes float32"):
        opened(good).run({"image": image})


def test_memory_order_does_not_matter(good: Artifact) -> None:
    session, image = opened(good), slopes(3)[1][0]
    wanted = session.run({"image": image})["found"]
    strided = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (strided, frozen):
        np.testing.assert_array_equal(session.run({"image": other})["found"], wanted)


def test_outputs_are_not_overwritten_by_the_next_call(good: Artifact) -> None:
    session, images = opened(good), slopes(4)
    first = session.run({"image": images[0][0]})["found"]
    kept = first.copy()
    session.run({"image": images[3][0]})
    np.testing.assert_array_equal(first, kept)


def test_threads_are_those_of_the_process(good: Artifact) -> None:
    assert opened(good, threads=2).facts["threads"] == 2
    assert opened(good, threads=1).facts["threads"] == 1
    with pytest.raises(UsageError, match="0 threads are too few"):
        opened(good, threads=0)


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda data: b"", RunFailed, "is no ExecuTorch program, or is damaged"),
        (lambda data: b"hello" * 100, RunFailed, "is no ExecuTorch program, or is damaged"),
        (lambda data: data[: len(data) // 2], RunFailed, "damaged, or of another schema .File size is too small"),
        (lambda data: data[:4] + b"ET99" + data[8:], Incompatible, "has schema ET99, and this runtime reads ET12"),
        (lambda data: data[:64] + bytes(len(data) - 64), RunFailed, "cannot load"),
    ],
)
def test_damaged_programs(good: Artifact, tmp_path: Path, damage: Any, error: type[Exception], words: str) -> None:
    file = tmp_path / "damaged.pte"
    file.write_bytes(damage(good.files["main"].read_bytes()))
    runtime = plugins.find(plugins.RUNTIMES, "executorch")(threads=1)
    with pytest.raises(error, match=words):
        runtime.open({"main": file}, good.signatures)


def test_a_program_without_the_graph(good: Artifact) -> None:
    runtime = plugins.find(plugins.RUNTIMES, "executorch")(threads=1)
    with pytest.raises(Incompatible, match=r"model.pte has no graph 'decode'. Known: main"):
        runtime.open({"decode": good.files["main"]}, {"decode": good.signatures["main"]})


def test_programs_of_others_run_too_and_their_errors_are_translated(tmp_path: Path) -> None:
    from executorch.exir import to_edge_transform_and_lower

    file = tmp_path / "theirs.pte"
    program = torch.export.export(Cell().eval().requires_grad_(False), (torch.ones(1, 4), torch.ones(1, 4)))
    file.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    right = Signature((_vector("x"), _vector("h")), (_vector("y"), _vector("new")))
    wrong = Signature((_vector("x", 1, 5), _vector("h")), right.outputs)
    runtime = plugins.find(plugins.RUNTIMES, "executorch")(threads=1)
    values = {"x": np.ones((1, 4), np.float32), "h": np.ones((1, 4), np.float32)}
    assert runtime.open({"main": file}, {"main": right}).run(values)["y"].shape == (1, 4)
    with pytest.raises(RunFailed, match=r"a shape that the program was not lowered for \(Error resizing tensor"):
        runtime.open({"main": file}, {"main": wrong}).run({**values, "x": np.ones((1, 5), np.float32)})


def test_an_operator_that_executorch_has_not_is_named_with_its_module(tmp_path: Path) -> None:
    class Solves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = torch.linalg.svd(x)[1]
            return values

    network = nn.Sequential(nn.Linear(4, 4), Solves()).eval().requires_grad_(False)
    graph = Graph(network, Signature((_vector("x", 4, 4),), (_vector("y", 4),)))
    with pytest.raises(ExportFailed, match=r"no operator aten._linalg_svd.default, which module '1' needs") as caught:
        written(Model("solves", {"main": graph}, SOURCE), tmp_path)
    assert caught.value.__cause__ is not None


def test_nothing_to_quantise_is_said(tmp_path: Path) -> None:
    graph = Graph(nn.Sigmoid(), Signature((_vector("x"),), (_vector("y"),)))
    samples = [Prepared((np.ones((1, 4), np.float32),))]
    with pytest.raises(ExportFailed, match="nothing in this graph that can be computed in int8"):
        written(Model("none", {"main": graph}, SOURCE), tmp_path, "int8", samples)


# Profiles


def test_the_time_of_each_operator(good: Artifact) -> None:
    from edgedeploy_executorch.profile import operator_times

    times = operator_times(good.files["main"], good.signatures["main"], {"image": slopes(1)[0][0]}, runs=3)
    assert any(one.delegated and one.name.startswith("Convolution") for one in times)
    assert all(one.time >= 0 for one in times)
    with pytest.raises(UsageError, match="0 runs"):
        operator_times(good.files["main"], good.signatures["main"], {"image": slopes(1)[0][0]}, runs=0)


def test_what_a_profile_is_read_with_is_kept_on_request(tmp_path: Path) -> None:
    done, _ = written(net(), tmp_path, etrecord=True)
    assert (tmp_path / "etrecord.bin").stat().st_size > 0
    assert "etrecord.bin" not in done.files.values()
