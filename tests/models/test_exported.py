"""Exported programs: what torch wrote loads and exports; what somebody wrote into one does not run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn

from edgedeploy import plugins
from edgedeploy.capture import EagerSession
from edgedeploy.errors import EdgeDeployError, ExportFailed, Untrusted, UsageError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import InputShape, load
from edgedeploy.tensors import Array

Change = Callable[[dict[str, Any]], None]


class Net(nn.Module):
    """Buffers, a constant tensor, a size that depends on the input, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.SiLU()
        self.shift = torch.arange(4, dtype=torch.float32).reshape(1, 4, 1, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.conv(images))) + self.shift
        x = self.act(x[:, :, 1:])
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(network: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 16, 16),)), path)
    return path


@pytest.fixture(scope="module")
def dynamic(network: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "dynamic.pt2"
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("height", min=4, max=64)}
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 16, 16),), dynamic_shapes=(sizes,)), path)
    return path


def rewritten(source: Path, target: Path, parts: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """A copy with each part as ``parts`` returns it (``None`` drops it) and ``more`` besides."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = parts(info.filename, old.read(info))
            if data is not None:
                new.writestr(info, data)
        root = old.namelist()[0].partition("/")[0]
        for name, data in more.items():
            new.writestr(f"{root}/{name}", data)
    return target


def changed(source: Path, target: Path, change: Change, part: str = "models/model.json") -> Path:
    def parts(name: str, data: bytes) -> bytes:
        if not name.endswith(part):
            return data
        record = json.loads(data)
        change(record)
        return json.dumps(record).encode()

    return rewritten(source, target, parts)


def close(got: Array, wanted: Array, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(wanted, np.float64), tolerance, tolerance)


def nodes(record: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = record["graph_module"]["graph"]["nodes"]
    return found


# What torch wrote


def test_a_program_loads_and_computes_what_the_network_does(program: Path, network: Net) -> None:
    model = load(program)
    signature = model.graphs["main"].signature
    assert [(s.name, s.dtype, s.shape) for s in signature.inputs] == [("images", "float32", (1, 3, 16, 16))]
    assert [s.shape for s in signature.outputs] == [(1, 2)]
    image = torch.rand(1, 3, 16, 16)
    outputs = EagerSession(model).run({"images": image.numpy()})
    with torch.no_grad():
        close(next(iter(outputs.values())), network(image).numpy(), 1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_program_exports_and_matches(precision: str, program: Path, network: Net, tmp_path: Path) -> None:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, {})
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    artifact = export(load(program), Request(exporter, Evidence([image], "one")), tmp_path)
    assert artifact.manifest.task is None
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open(artifact.files, artifact.signatures)
    with torch.no_grad():
        wanted = network(torch.from_numpy(image)).numpy()
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    close(next(iter(session.run({"images": image}).values())), wanted, tolerance)


def test_dynamic_shapes_survive(dynamic: Path, network: Net, tmp_path: Path) -> None:
    model = load(dynamic)
    batch, _, height, _ = model.graphs["main"].signature.inputs[0].shape
    assert isinstance(batch, str)
    assert isinstance(height, str)
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    artifact = export(model, Request(exporter, Evidence([image], "one")), tmp_path)
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open(artifact.files, artifact.signatures)
    for shape in ((1, 3, 16, 16), (5, 3, 24, 16)):
        other = torch.rand(*shape)
        with torch.no_grad():
            got = next(iter(session.run({"images": other.numpy()}).values()))
            close(got, network(other).numpy(), 1e-4)


def test_what_torch_cannot_convert_is_said_in_a_sentence(network: Net, tmp_path: Path) -> None:
    """torch 2.13 does not decompose a dimension that is a multiple of another once the program was saved."""
    sizes = {2: 2 * torch.export.Dim("half", min=2, max=64)}
    exported = torch.export.export(network, (torch.rand(2, 3, 16, 16),), dynamic_shapes=(sizes,))
    torch.export.save(exported, tmp_path / "net.pt2")
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    request = Request(exporter, Evidence([np.zeros((2, 3, 16, 16), np.float32)], "one"))
    try:
        export(load(tmp_path / "net.pt2"), request, tmp_path / "out")
    except ExportFailed as error:
        assert "could not export net: AssertionError: expected sympy.Symbol" in str(error)
        assert "\n" not in str(error)
        assert "\x1b" not in str(error)
        assert error.__cause__ is not None
        assert list((tmp_path / "out").iterdir()) == []


def test_two_outputs_keep_their_order(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, z: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return z + 10 * a, z * 0.5

    torch.export.save(torch.export.export(Two(), (torch.rand(1, 4), torch.rand(1, 4))), tmp_path / "two.pt2")
    model = load(tmp_path / "two.pt2")
    assert [s.name for s in model.graphs["main"].signature.inputs] == ["z", "a"]
    ones = np.ones((1, 4), np.float32)
    first, second = EagerSession(model).run({"a": ones, "z": 2 * ones}).values()
    assert (first[0, 0], second[0, 0]) == (12, 1)


@pytest.mark.parametrize("shape", [InputShape(batch=2), InputShape(size=(32, 32)), InputShape(dynamic=("batch",))])
def test_other_shapes_are_refused(shape: InputShape, program: Path) -> None:
    with pytest.raises(UsageError, match="has the shapes it was exported with"):
        load(program, shape)


def test_state_in_buffers_is_refused(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: torch.Tensor
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen[:].add_(1)
            return x + self.seen

    torch.export.save(torch.export.export(Counts(), (torch.rand(1, 4),)), tmp_path / "net.pt2")
    with pytest.raises(UsageError, match="state in buffers"):
        load(tmp_path / "net.pt2")


def test_reading_leaves_the_environment_alone(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    load(program)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    load(program)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


# What must not run: each of these was made from a good file, and says it wants to create ``witness``


def code(witness: Path) -> str:
    return f"__import__('os').system('touch {witness}')"


def target(name: str) -> Change:
    return lambda record: nodes(record)[0].update(target=name)


CHANGES: dict[str, Callable[[Path], Change]] = {
    "a function of torch's": lambda w: target("torch.hub.load"),
    "a function of the system": lambda w: target("os.system"),
    "what hangs on an operator": lambda w: target("torch.ops.aten.add.Tensor.__class__"),
    "a namespace's insides": lambda w: target("torch.ops.aten.__init__.x"),
    "what hangs on a module": lambda w: target("math.__loader__.load_module"),
    "a getter of attributes": lambda w: target("_operator.attrgetter"),
    "an operator that writes files": lambda w: target("torch.ops.aten.save.default"),
    "an operator that maps files": lambda w: target("torch.ops.aten.from_file.default"),
    "an operator that calls": lambda w: target("torch.ops.higher_order.call_torchbind"),
    "an extension": lambda w: target("#edgedeploy:evil"),
    "a function as an argument": lambda w: lambda r: nodes(r)[0]["inputs"][0].update(arg={"as_operator": "torch.load"}),
    "code as an expression": lambda w: (
        lambda r: tensor(r).update(sizes=[{"as_expr": {"expr_str": code(w), "hint": {"as_int": 1}}}])
    ),
    "code in a symbol's name": lambda w: (
        lambda r: tensor(r).update(sizes=[{"as_expr": {"expr_str": f'Symbol("s0", x={code(w)})', "hint": None}}])
    ),
    "code as text that sympy reads": lambda w: (
        lambda r: tensor(r).update(sizes=[{"as_expr": {"expr_str": f'Add("{code(w)}", 1)', "hint": None}}])
    ),
    "code in a node's name": lambda w: lambda r: rename(r, f"x=({code(w)})):\n  return 1\n#"),
    "code in an argument's name": lambda w: lambda r: entry(r).update(forward_arg_names=[f"x=({code(w)})"]),
    "a container that imports": lambda w: (
        lambda r: entry(r).update(in_spec=entry(r)["in_spec"].replace("builtins.dict", "collections.defaultdict"))
    ),
    "code as the key of a container": lambda w: (
        lambda r: entry(r).update(in_spec=entry(r)["in_spec"].replace('"[]"', json.dumps(json.dumps([code(w)]))))
    ),
    "code in a parameter's name": lambda w: (
        lambda r: r["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name=f"x');{code(w)}#")
    ),
}


def tensor(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["graph_module"]["graph"]["tensor_values"]["images"]
    return found


def entry(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["graph_module"]["module_call_graph"][0]["signature"]
    return found


def rename(record: dict[str, Any], name: str) -> None:
    """Give the input another name wherever it is used."""
    text = json.dumps(record["graph_module"]).replace('"images"', json.dumps(name))
    record["graph_module"] = json.loads(text)


@pytest.mark.parametrize("name", CHANGES)
def test_a_tampered_record_is_refused_and_not_run(name: str, program: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = changed(program, tmp_path / "net.pt2", CHANGES[name](witness))
    with pytest.raises(Untrusted, match="Do not use it") as caught:
        load(path)
    assert not witness.exists()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_guards_are_left_out(program: Path, tmp_path: Path) -> None:
    """They are source code that torch executes when the program is made to run; shapes are checked anyway."""
    witness = tmp_path / "witness"
    path = changed(program, tmp_path / "net.pt2", lambda r: r.update(guards_code=[f"{code(witness)} == 0"]))
    model = load(path)
    EagerSession(model).run({"images": np.zeros((1, 3, 16, 16), np.float32)})
    assert not witness.exists()


def test_guards_would_run(program: Path, tmp_path: Path) -> None:
    """Torch's own reader does run them: the test above would notice."""
    witness = tmp_path / "witness"
    path = changed(program, tmp_path / "net.pt2", lambda r: r.update(guards_code=[f"{code(witness)} == 0"]))
    torch.export.load(path).module()(torch.zeros(1, 3, 16, 16))
    assert witness.exists()


class Evil:
    """Unpickled without restriction, it creates a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_pickle_in_place_of_the_example_inputs_is_not_run(program: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    evil = saved((Evil(witness),))
    torch.load(io.BytesIO(evil), weights_only=False)
    assert witness.exists()  # the payload is live
    witness.unlink()
    path = rewritten(program, tmp_path / "net.pt2", lambda name, data: evil if "sample_inputs" in name else data)
    with pytest.raises(EdgeDeployError):
        load(path)
    assert not witness.exists()


def test_a_pickle_in_place_of_a_weight_is_not_run(program: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    def parts(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            record = json.loads(data)
            next(iter(record["config"].values()))["use_pickle"] = True
            return json.dumps(record).encode()
        return saved(Evil(witness)) if name.endswith("weight_0") else data

    with pytest.raises(EdgeDeployError):
        load(rewritten(program, tmp_path / "net.pt2", parts))
    assert not witness.exists()


@pytest.mark.parametrize("prefix", ["opaque_obj_", "custom_obj_", "anything_"])
def test_a_constant_that_is_unpickled_is_not_run(prefix: str, program: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    def parts(name: str, data: bytes) -> bytes:
        if not name.endswith("model_constants_config.json"):
            return data
        record = json.loads(data)
        kept = next(iter(record["config"].values()))
        record["config"]["evil"] = {**kept, "path_name": f"{prefix}0", "use_pickle": True}
        return json.dumps(record).encode()

    evil = pickle.dumps(Evil(witness))
    path = rewritten(program, tmp_path / "net.pt2", parts, **{f"data/constants/{prefix}0": evil})
    with pytest.raises(Untrusted):
        load(path)
    assert not witness.exists()


def test_an_opaque_constant_would_run(program: Path, tmp_path: Path) -> None:
    """Torch's own reader unpickles it: the test above would notice."""
    witness = tmp_path / "witness"

    def parts(name: str, data: bytes) -> bytes:
        if not name.endswith("model_constants_config.json"):
            return data
        record = json.loads(data)
        kept = next(iter(record["config"].values()))
        record["config"]["evil"] = {**kept, "path_name": "opaque_obj_0", "use_pickle": True}
        return json.dumps(record).encode()

    evil = pickle.dumps(Evil(witness))
    path = rewritten(program, tmp_path / "net.pt2", parts, **{"data/constants/opaque_obj_0": evil})
    try:
        torch.export.load(path)
    except Exception:
        pass
    if not witness.exists():
        pytest.skip("this torch does not unpickle opaque constants any more")


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/model.so", "data/constants/../../evil", "models/other.json", "code.py", "../../x"]
)
def test_a_part_that_no_program_needs_is_refused(name: str, program: Path, tmp_path: Path) -> None:
    path = rewritten(program, tmp_path / "net.pt2", lambda _, data: data, **{name: b"{}"})
    with pytest.raises(Untrusted, match="which no exported program needs"):
        load(path)


def test_extra_files_are_left_out(network: Net, tmp_path: Path) -> None:
    exported = torch.export.export(network, (torch.rand(1, 3, 16, 16),))
    torch.export.save(exported, tmp_path / "net.pt2", extra_files={"notes, and more.txt": "hello"})
    assert load(tmp_path / "net.pt2").graphs["main"].signature.inputs[0].name == "images"


def test_two_readers_see_one_file(program: Path, tmp_path: Path) -> None:
    """A zip with two directories: Python reads the one before the end, C libraries the one at the stated place."""
    witness = tmp_path / "witness"
    evil = changed(
        program, tmp_path / "evil.pt2", lambda r: r.update(guards_code=[f"{code(witness)} == 0"])
    ).read_bytes()
    good = program.read_bytes()
    where = good.rindex(b"PK\x05\x06")
    size, start = (int.from_bytes(good[where + at : where + at + 4], "little") for at in (12, 16))
    assert start + size <= where
    end = evil.rindex(b"PK\x05\x06")
    record = bytearray(good[where : where + 22])
    record[16:20] = evil[end + 16 : end + 20]  # the stated place is that of the evil directory
    (tmp_path / "net.pt2").write_bytes(evil[:end] + good[:where] + bytes(record))
    try:
        EagerSession(load(tmp_path / "net.pt2")).run({"images": np.zeros((1, 3, 16, 16), np.float32)})
    except EdgeDeployError:
        pass
    assert not witness.exists()


def test_a_bomb_is_refused(program: Path, tmp_path: Path) -> None:
    path = rewritten(program, tmp_path / "plain.pt2", lambda _, data: data)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/weight_9", bytes(260 << 20))
    with pytest.raises(Untrusted, match="would unpack to"):
        load(path)


# What cannot be read


def test_no_program_is_a_usage_error(program: Path, tmp_path: Path) -> None:
    contents = {
        "garbage": b"garbage",
        "zeros": bytes(1000),
        "text": b"hello\n",
        "another zip": zipped({"a.txt": b"hello"}),
        "a checkpoint": saved({"weight": torch.zeros(2)}),
        "broken JSON": zipped({"net/models/model.json": b"{"}),
        "a list": zipped({"net/models/model.json": b"[]"}),
        "deep JSON": zipped({"net/models/model.json": b"[" * 100_000}),
        "nothing in it": zipped({"net/models/model.json": b"{}"}),
    }
    for name, data in contents.items():
        path = tmp_path / "net.pt2"
        path.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            load(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_missing_part_is_a_usage_error(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        names = [n for n in archive.namelist() if "/.data/" not in n and not n.endswith("/byteorder")]
    for missing in names:
        path = rewritten(program, tmp_path / "net.pt2", lambda n, data, missing=missing: None if n == missing else data)  # type: ignore[misc]
        with pytest.raises(UsageError):
            load(path)


FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(share=st.floats(0, 0.9999))
def test_a_torn_file_is_a_usage_error(share: float, program: Path, tmp_path: Path) -> None:
    data = program.read_bytes()
    path = tmp_path / "net.pt2"
    path.write_bytes(b"x" + data[: int(share * len(data))])
    with pytest.raises(UsageError):
        load(path)


@FUZZ
@given(data=st.data())
def test_a_record_with_a_value_changed_is_no_traceback(data: st.DataObject, program: Path, tmp_path: Path) -> None:
    """Any one value of the record becomes something else; what then loads also runs, or says that it cannot."""

    def change(record: dict[str, Any]) -> None:
        item: Any = record["graph_module"]
        while True:
            keys = list(item) if isinstance(item, dict) else list(range(len(item)))
            key = data.draw(st.sampled_from(keys))
            deeper = isinstance(item[key], (dict, list)) and item[key]
            if not deeper or data.draw(st.integers(0, 9)) == 0:
                break
            item = item[key]
        item[key] = data.draw(st.sampled_from([None, -1, 10**9, "x", [], {}, True, 0.5, [None], {"as_int": 3}]))

    path = changed(program, tmp_path / "net.pt2", change)
    try:
        model = load(path)
        EagerSession(model).run(
            {s.name: np.zeros((1, 3, 16, 16), np.float32) for s in model.graphs["main"].signature.inputs}
        )
    except EdgeDeployError as error:
        assert str(error)
