"""Ultralytics checkpoints: real ones load, and nothing that somebody put into one is run."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedeploy.models import yolo  # noqa: E402

with yolo.quietly():  # or every test after this one would run with Pillow and OpenCV replaced
    pytest.importorskip("ultralytics")
    from ultralytics.nn import tasks as networks
    from ultralytics.nn.modules import conv

from edgedeploy import plugins  # noqa: E402
from edgedeploy.demo.scenes import Rendered  # noqa: E402
from edgedeploy.errors import Unavailable, Untrusted, UsageError  # noqa: E402
from edgedeploy.exporter import Evidence, Request, export  # noqa: E402
from edgedeploy.model import InputShape, Model, load, pickled_names  # noqa: E402

Build = Callable[[str], Path]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A checkpoint as Ultralytics' trainer saves it, of an architecture of theirs with random weights."""
    folder = tmp_path_factory.mktemp("built")

    def build(name: str) -> Path:
        path = folder / f"{name}.pt"
        if not path.exists():
            torch.manual_seed(0)
            kind = networks.SegmentationModel if "seg" in name else networks.DetectionModel
            network = kind(f"{name}.yaml", verbose=False).half()
            torch.save({"epoch": -1, "model": network, "train_args": {"imgsz": 96, "task": "detect"}}, path)
        return path

    return build


@pytest.fixture(scope="module")
def small(build: Build) -> Path:
    return build("yolov8n")


def tampered(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a checkpoint with another pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, change(data) if info.filename.endswith("data.pkl") else data)
    return target


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def before(code: bytes) -> Callable[[bytes], bytes]:
    """``code`` leaves one value on the stack, which is dropped; then comes the pickle as it was."""

    def change(data: bytes) -> bytes:
        assert data[:2] == b"\x80\x02"
        return data[:2] + code + b"0" + data[2:]

    return change


# What loads


def test_a_real_checkpoint_loads(shared: Path) -> None:
    model = load(shared / "weights" / "yolov8n.pt")
    graph = model.graphs["main"]
    assert [s.shape for s in graph.signature.inputs] == [(1, 3, 640, 640)]
    assert [s.shape for s in graph.signature.outputs] == [(1, 84, 8400)]
    assert model.task is not None
    assert model.task["head"] == "yolov8"
    assert model.task["labels"][:3] == ["person", "bicycle", "car"]
    assert len(model.task["labels"]) == 80
    assert graph.stride == 32
    assert (model.name, model.source.format) == ("yolov8n", "ultralytics")


def test_a_real_checkpoint_finds_what_is_in_a_photograph(shared: Path) -> None:
    """Ultralytics' own preprocessing is not used here: letterbox, order of colours and decoding are all ours."""
    from edgedeploy.capture import EagerSession
    from edgedeploy.tasks import Detect, from_contract
    from edgedeploy.tasks.dataset import read_coco
    from edgedeploy.tasks.image import read_image

    model = load(shared / "weights" / "yolov8n.pt")
    assert model.task is not None
    task = from_contract(model.task)
    assert isinstance(task, Detect)
    data = read_coco(next((shared / "data" / "coco_val128" / "annotations").glob("*.json")))
    session, hits = EagerSession(model), 0
    for sample in data.samples[:4]:
        prepared = task.prepare(read_image(sample.image))
        outputs = session.run({"images": prepared.tensors[0]})
        found = task.finish([outputs["detections"]], prepared.context)
        hits += len({task.labels[c] for c in found.classes} & {data.labels[c] for c in sample.classes})
    assert hits >= 4


def test_size_batch_and_what_stays_dynamic_are_the_users(small: Path) -> None:
    plain = load(small)
    assert plain.graphs["main"].signature.inputs[0].shape == (1, 3, 96, 96)  # as trained
    fixed = load(small, InputShape(batch=2, size=(64, 128)))
    assert fixed.graphs["main"].signature.inputs[0].shape == (2, 3, 64, 128)
    assert fixed.task is not None
    assert fixed.task["size"] == [64, 128]
    free = load(small, InputShape(size=(64, 64), dynamic=("batch", "size"))).graphs["main"].signature
    assert free.inputs[0].shape == ("batch", 3, "height", "width")
    assert free.outputs[0].shape == ("batch", 84, "anchors")


@pytest.mark.parametrize("size", [(100, 96), (96, 33), (0, 32), (-32, 32)])
def test_a_size_that_the_strides_do_not_divide_is_refused(small: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="not a multiple of 32"):
        load(small, InputShape(size=size))


FAMILIES = {
    "yolov5n": "yolov8",
    "yolov8s": "yolov8",
    "yolov8n-p2": "yolov8",
    "yolov9t": "yolov8",
    "yolov10n": "end2end",
    "yolo11n": "yolov8",
    "yolo12n": "yolov8",
    "yolo26n": "end2end",
}


def known(name: str, build: Build) -> Path:
    try:
        return build(name)
    except FileNotFoundError:
        pytest.skip(f"this release of ultralytics has no {name}")


@pytest.mark.parametrize(("name", "head"), FAMILIES.items())
def test_other_families_load_with_their_head(name: str, head: str, build: Build) -> None:
    model = load(known(name, build))
    graph = model.graphs["main"]
    strides = (4, 8, 16, 32) if name.endswith("p2") else (8, 16, 32)
    anchors = sum((96 // s) ** 2 for s in strides)
    assert model.task is not None
    assert (model.task["head"], tuple(model.task["strides"])) == (head, strides)
    expected = (1, min(300, anchors), 6) if head == "end2end" else (1, 84, anchors)
    assert graph.signature.outputs[0].shape == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_other_families_export(name: str, build: Build, tmp_path: Path) -> None:
    model = load(known(name, build))
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    artifact = export(model, Request(exporter, Evidence(Rendered(2), "two scenes")), tmp_path)
    for golden in artifact.manifest.golden:
        assert all(one.snr > 60 for one in golden.agreement)
    # ONNX Runtime and PyTorch on an input that was not a golden vector
    from edgedeploy.capture import EagerSession
    from edgedeploy.tasks import from_contract

    assert model.task is not None
    image = {"images": np.random.default_rng(0).random((1, 3, 96, 96), np.float32)}
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open(artifact.files, artifact.signatures)
    sides = [from_contract(model.task).comparable(s.run(image)) for s in (EagerSession(model), session)]
    for ours, theirs in zip(*(side.values() for side in sides), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


# What must not run


def payload(witness: Path) -> str:
    return f"touch {witness}"


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "GLOBAL": lambda command: b"cos\nsystem\n" + text(command) + b"\x85R",
    "STACK_GLOBAL": lambda command: b"\x8c\x02os\x8c\x06system\x93" + text(command) + b"\x85R",
    "by another name": lambda command: b"cposix\nsystem\n" + text(command) + b"\x85R",
    "INST": lambda command: b"(" + text(command) + b"ios\nsystem\n",
    "OBJ": lambda command: b"(cos\nsystem\n" + text(command) + b"o",
    "builtins": lambda command: b"cbuiltins\nexec\n" + text(f"__import__('os').system({command!r})") + b"\x85R",
    "torch itself": lambda command: b"ctorch.hub\nload\n" + text(command) + b"\x85R",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_foreign_class_is_refused_and_not_run(spelling: str, small: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code = SPELLINGS[spelling](payload(witness))
    path = tampered(small, tmp_path / "evil.pt", before(code))
    with pytest.raises(Untrusted) as caught:
        load(path)
    assert not witness.exists()
    message = str(caught.value)
    assert str(path) in message
    assert "nothing of it was run" in message
    assert "factory module:function" in message  # what to do
    assert any(name in message for name in ("os.system", "posix.system", "builtins.exec", "torch.hub.load"))


def test_these_payloads_are_live(tmp_path: Path) -> None:
    """Python's own unpickler does run them: the tests above would notice."""
    for number, spelling in enumerate(("GLOBAL", "STACK_GLOBAL", "by another name", "INST", "OBJ", "builtins")):
        witness = tmp_path / str(number)
        pickle.loads(b"\x80\x04" + SPELLINGS[spelling](payload(witness)) + b".")
        assert witness.exists(), spelling


def test_calling_an_allowed_layer_is_refused_and_not_run(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[Any, ...]] = []
    monkeypatch.setattr(conv.Conv, "__init__", lambda self, *args: built.append(args))
    code = b"cultralytics.nn.modules.conv\nConv\nK\x03K\x08\x86R"
    pickle.loads(b"\x80\x02" + code + b".")
    assert built == [(3, 8)]  # the payload is live
    built.clear()
    path = tampered(small, tmp_path / "evil.pt", before(code))
    with pytest.raises(Untrusted, match=r"evil\.pt: the file calls Conv\(\.\.\.\)"):
        load(path)
    assert built == []


def test_what_hangs_on_an_allowed_name_is_not_allowed(small: Path, tmp_path: Path) -> None:
    code = b"cultralytics.nn.modules.conv\nConv.forward.__globals__\n"
    with pytest.raises(Untrusted, match=r"Conv\.forward\.__globals__"):
        load(tampered(small, tmp_path / "evil.pt", before(code)))


def test_an_allowed_layer_that_downloads_when_built_is_not_allowed(small: Path, tmp_path: Path) -> None:
    code = b"cultralytics.nn.modules.block\nTorchVision\n"
    with pytest.raises(Untrusted, match="TorchVision"):
        load(tampered(small, tmp_path / "evil.pt", before(code)))


# What cannot be loaded


def test_another_task_is_named(build: Build) -> None:
    with pytest.raises(UsageError, match="is a SegmentationModel, not a detection model"):
        load(build("yolov8n-seg"))


def namespace() -> Any:
    from ultralytics.utils import IterableSimpleNamespace

    return IterableSimpleNamespace(imgsz=96)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: {"conv.weight": torch.zeros(2)}, "not an Ultralytics checkpoint"),
        (lambda: torch.nn.Linear(2, 2), "not an Ultralytics checkpoint"),
        (lambda: {"model": None, "train_args": namespace()}, "holds no network"),
        (lambda: [namespace()], "no checkpoint dictionary"),
        (lambda: {"model": conv.Conv(3, 8)}, "is a Conv, not a detection model"),
        (lambda: {"model": {"weight": torch.zeros(1)}, "args": namespace()}, "holds no network"),
    ],
)
def test_a_file_without_a_detector_is_refused(content: Callable[[], object], said: str, tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "net.pt")
    with pytest.raises(UsageError, match=said):
        load(tmp_path / "net.pt")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(UsageError, match="not an Ultralytics checkpoint"):
        load(tmp_path / "net.pt")


def hollow(part: str) -> Callable[[], dict[str, Any]]:
    """A detection checkpoint of which a part is missing or is something else."""

    def make() -> dict[str, Any]:
        network = networks.DetectionModel("yolov8n.yaml", verbose=False)
        checkpoint: dict[str, Any] = {"model": network, "train_args": {"imgsz": 96}}
        if part == "names":
            del network.names
        elif part == "keys":
            network.names = {0: "a", "one": "b"}
        elif part == "layers":
            del network.model
        elif part == "no layers":
            network.model = torch.nn.Sequential()
        elif part == "a layer":
            network.model[3] = torch.nn.Identity()
        elif part == "where from":
            del network.model[3].f
        elif part == "stride":
            network.model[-1].stride = "many"
        elif part == "no stride":
            del network.model[-1].stride
        elif part == "size":
            checkpoint["train_args"] = {"imgsz": "large"}
        elif part == "arguments":
            checkpoint["train_args"] = [1, 2]
        elif part == "two networks":
            checkpoint["ema"] = torch.zeros(3)
        return checkpoint

    return make


@pytest.mark.parametrize(
    "part",
    [
        "names",
        "keys",
        "layers",
        "no layers",
        "a layer",
        "where from",
        "stride",
        "no stride",
        "size",
        "arguments",
        "two networks",
    ],
)
def test_a_network_with_a_part_missing_is_no_traceback(part: str, tmp_path: Path) -> None:
    torch.save(hollow(part)(), tmp_path / "net.pt")
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "net.pt")
    assert str(tmp_path / "net.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torn_or_garbled_checkpoint_is_no_traceback(small: Path, tmp_path: Path) -> None:
    data = small.read_bytes()
    path = tmp_path / "net.pt"
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UsageError, match="damaged or truncated"):
            load(path)


def test_a_garbled_pickle_is_no_traceback(small: Path, tmp_path: Path) -> None:
    """Bytes of the pickle itself, changed where the zip's checksum is right again: few load, none escapes."""
    generator = np.random.default_rng(0)
    loaded = 0
    for number in range(12):

        def garble(data: bytes) -> bytes:
            changed = bytearray(data)
            for where in generator.integers(2, len(data), 3):
                changed[where] = generator.integers(0, 256)
            return bytes(changed)

        path = tampered(small, tmp_path / f"{number}.pt", garble)
        try:
            loaded += isinstance(load(path), Model)
        except (UsageError, Untrusted) as error:
            assert str(path) in str(error)
    assert loaded < 12


# What is not installed


def test_without_ultralytics_the_line_that_installs_it_is_said(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m == "ultralytics" or m.startswith("ultralytics.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[ultralytics\]'$") as caught:
        load(small)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_names_only_what_is_allowed(small: Path) -> None:
    """The allow-list is not wider than needed: what a real file names is on it, and no function is."""
    from edgedeploy.models import yolo

    allowed = {name: thing for thing, name in yolo._allowed()}
    ours = {name.replace(" ", ".") for name in pickled_names(small)}
    assert {name for name in ours if name.startswith("ultralytics.")} <= allowed.keys()
    assert all(isinstance(thing, type) for thing in allowed.values())


def test_loading_leaves_the_process_as_it_was(shared: Path) -> None:
    code = f"""
import os, sys, torch, PIL.Image, cv2
from edgedeploy.model import load
before = (torch.save, PIL.Image.open, cv2.imread, cv2.imwrite, cv2.getNumThreads(), dict(os.environ))
load({str(shared / "weights" / "yolov8n.pt")!r})
assert "ultralytics" in sys.modules
assert before == (torch.save, PIL.Image.open, cv2.imread, cv2.imwrite, cv2.getNumThreads(), dict(os.environ))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
