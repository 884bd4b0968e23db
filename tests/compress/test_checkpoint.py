"""Detectors on disk: what was written comes back bit for bit, trainable, and what cannot be compressed is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edgedeploy.models import yolo  # noqa: E402

with yolo.quietly():
    pytest.importorskip("ultralytics")
    from ultralytics import YOLO
    from ultralytics.nn import tasks as networks

from edgedeploy.artifact import Artifact  # noqa: E402
from edgedeploy.capture import EagerSession  # noqa: E402
from edgedeploy.compress import checkpoint  # noqa: E402
from edgedeploy.compress.detector import Detector  # noqa: E402
from edgedeploy.compress.lineage import Lineage, Step  # noqa: E402
from edgedeploy.errors import EdgeDeployError, Untrusted, UsageError  # noqa: E402
from edgedeploy.model import InputShape, file_digest, load, safetensors_metadata  # noqa: E402

LABELS = ("car", "van", "truck", "bus")
LINEAGE = Lineage("best.pt", "0" * 64).then(
    Step("prune", {"ratio": 0.5, "keep": ["detect"], "device": None}, "1" * 64, 3, 1.5, {"ap50": 0.5}, {"torch": "2"})
)
SMALL = InputShape(size=(64, 64))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def keep(block: Any, outputs: list[int] | None = None, inputs: list[int] | None = None) -> None:
    """Leave a convolution, with its batch normalisation where it has one, these channels."""
    conv = getattr(block, "conv", block)
    depthwise = conv.groups == conv.in_channels > 1
    weight = conv.weight.data
    if inputs is not None and not depthwise:
        weight, conv.in_channels = weight[:, inputs], len(inputs)
    if outputs is not None:
        weight, conv.out_channels = weight[outputs], len(outputs)
        if depthwise:
            conv.in_channels = conv.groups = len(outputs)
        norm = block.bn
        for name in ("weight", "bias"):
            setattr(norm, name, torch.nn.Parameter(getattr(norm, name).data[outputs]))
        for name in ("running_mean", "running_var"):
            setattr(norm, name, getattr(norm, name)[outputs])
        norm.num_features = len(outputs)
    conv.weight = torch.nn.Parameter(weight.clone())


def resized(network: Any) -> Any:
    """By hand, in an n network: inside its first C2f or C3k2, of its first layer, and of the head's first input."""
    first, stem, block = network.model[0], network.model[1], network.model[2]
    odd = [*range(0, 16, 2), 1]
    keep(first, odd)
    keep(stem, inputs=odd)
    width, inner = block.c, block.m[0].cv1.conv.out_channels
    left, right = [0, 2, 3], [1, 2, 4]  # as many of each half, other ones
    keep(block.cv1, [*left, *(width + i for i in right)])
    keep(block.m[0].cv1, list(range(inner - 1)), right)
    keep(block.m[0].cv2, right, list(range(inner - 1)))
    keep(block.cv2, inputs=[*left, *(width + i for i in right), *(2 * width + i for i in right)])
    block.c = 3
    head = network.model[-1]
    neck = [i for i in range(64) if i % 3]
    keep(network.model[head.f[0]].cv2, neck)
    keep(network.model[head.f[0] + 1], inputs=neck)
    keep(head.cv2[0][0], inputs=neck)
    if isinstance(head.cv3[0][0], torch.nn.Sequential):  # YOLO11: depthwise, then 1x1
        keep(head.cv3[0][0][0], neck)
        keep(head.cv3[0][0][1], inputs=neck)
    else:
        keep(head.cv3[0][0], inputs=neck)
    return network


def detector(name: str = "yolov8n") -> Detector:
    """A resized network with statistics of its own in every batch normalisation."""
    torch.manual_seed(0)
    network = networks.DetectionModel(f"{name}.yaml", nc=4, verbose=False)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
            layer.running_mean.normal_(std=0.1)
    network.names = dict(enumerate(LABELS))
    return Detector(resized(network.eval()), LABELS, (64, 64), LINEAGE)


@pytest.fixture(scope="module")
def pruned() -> Detector:
    return detector()


@pytest.fixture(scope="module")
def native(pruned: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "pruned.safetensors"
    checkpoint.write(path, pruned)
    return path


@pytest.fixture(scope="module")
def theirs(pruned: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "pruned.pt"
    checkpoint.write_ultralytics(path, pruned)
    return path


def output(network: Any, size: int = 64) -> Any:
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(image)
    return found if isinstance(found, torch.Tensor) else found[0]


def same(one: Any, other: Any) -> None:
    """Bit for bit the same weights, names of layers and outputs."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert torch.equal(output(one), output(other))


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Written and read


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
def test_what_was_written_comes_back(name: str, tmp_path: Path) -> None:
    before = detector(name)
    path = tmp_path / "net.safetensors"
    assert checkpoint.write(path, before) == file_digest(path)
    after = checkpoint.read(path)
    same(before.network, after.network)
    assert (after.labels, after.size, after.lineage) == (before.labels, before.size, before.lineage)
    assert type(after.network) is networks.DetectionModel
    assert not after.network.training
    assert after.network.model[2].c == 3
    assert after.network.names == dict(enumerate(LABELS))
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    again = tmp_path / "again.safetensors"
    assert checkpoint.write(again, after) == file_digest(path)  # the same bytes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "net.safetensors"]


def test_what_pruning_made_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    from edgedeploy.compress.pruning.prune import prune_detector
    from edgedeploy.compress.recipe import Pruning

    network = networks.DetectionModel("yolo11n.yaml", nc=4, verbose=False).eval()
    before, _ = prune_detector(Detector(network, LABELS, (64, 64), LINEAGE), Pruning(0.6, keep=()))
    checkpoint.write(tmp_path / "net.safetensors", before)
    after = checkpoint.read(tmp_path / "net.safetensors")
    same(before.network, after.network)
    assert [step.stage for step in after.lineage.steps] == [step.stage for step in before.lineage.steps]
    assert checkpoint.write(tmp_path / "net.safetensors", after) == checkpoint.write(tmp_path / "2.safetensors", before)


def test_the_header_holds_only_the_widths_that_differ(native: Path) -> None:
    record = safetensors_metadata(native)
    widths = record["options"]["widths"]
    assert widths["model.0.conv"] == {"out_channels": 9}
    assert widths["model.2.m.0.cv1.conv"] == {"in_channels": 3, "out_channels": 15}
    assert "model.5.conv" not in widths
    assert record["task"]["labels"] == list(LABELS)
    assert record["lineage"]["steps"][0]["stage"] == "prune"


def test_what_was_read_is_its_own(pruned: Detector, native: Path) -> None:
    """Neither the file nor another network changes with it."""
    one, digest = checkpoint.read(native), file_digest(native)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.zero_()
    same(checkpoint.read(native).network, pruned.network)
    assert file_digest(native) == digest


def test_it_can_be_trained_further(native: Path) -> None:
    network = checkpoint.read(native).network.train()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "cls": torch.tensor([[0.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.3, 0.5]]),
        "batch_idx": torch.tensor([0.0, 1.0]),
    }
    loss, _ = network.loss(batch)
    loss.sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == ["model.22.dfl.conv.weight"]
    assert gradients["model.2.m.0.cv1.bn.weight"].abs().sum() > 0
    deepcopy(network.eval()).fuse(verbose=False)


def test_a_real_checkpoint_is_read_and_written(shared: Path, tmp_path: Path) -> None:
    path = shared / "weights" / "yolov8n.pt"
    before = checkpoint.read(path)
    assert before.size == (640, 640)
    assert before.labels[:2] == ("person", "bicycle")
    assert before.lineage == Lineage("yolov8n.pt", file_digest(path))
    assert {p.dtype for p in before.network.parameters()} == {torch.float32}
    same(before.network, yolo.unfused(path).network)
    checkpoint.write(tmp_path / "net.safetensors", before)
    assert safetensors_metadata(tmp_path / "net.safetensors")["options"]["widths"] == {}
    one, other = (load(p, SMALL) for p in (path, tmp_path / "net.safetensors"))
    assert one.task == other.task
    assert one.graphs["main"].signature == other.graphs["main"].signature
    assert torch.equal(output(one.graphs["main"].network), output(other.graphs["main"].network))


# For Ultralytics


def test_ultralytics_opens_what_is_written_for_it(pruned: Detector, theirs: Path) -> None:
    opened = YOLO(theirs)
    assert opened.names == dict(enumerate(LABELS))
    assert opened.overrides["imgsz"] == 64
    assert torch.equal(output(opened.model), output(pruned.network))
    assert [p.name for p in theirs.parent.iterdir()] == ["pruned.pt"]


def test_what_is_written_for_ultralytics_is_read_back(pruned: Detector, theirs: Path) -> None:
    after = checkpoint.read(theirs)
    same(pruned.network, after.network)
    assert (after.labels, after.size, after.lineage) == (pruned.labels, pruned.size, pruned.lineage)
    assert checkpoint.read(theirs).network.yaml == after.network.yaml


def test_both_files_deploy_the_same_network(pruned: Detector, native: Path, theirs: Path) -> None:
    one, other = load(native), load(theirs)
    assert one.task == other.task
    assert torch.equal(output(one.graphs["main"].network), output(other.graphs["main"].network))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in one.graphs["main"].network.modules())
    torch.testing.assert_close(output(one.graphs["main"].network), output(pruned.network), rtol=1e-3, atol=1e-3)


def test_ultralytics_trainer_cannot_undo_the_pruning_unnoticed(pruned: Detector, theirs: Path) -> None:
    opened = YOLO(theirs)
    with pytest.raises(KeyError, match="This network is pruned"):
        networks.DetectionModel(opened.model.yaml, nc=4, verbose=False)
    assert "This network is pruned" not in str(pruned.network.yaml)


def test_an_unpruned_network_can_be_built_anew_by_ultralytics(shared: Path, tmp_path: Path) -> None:
    checkpoint.write_ultralytics(tmp_path / "net.pt", checkpoint.read(shared / "weights" / "yolov8n.pt"))
    opened = YOLO(tmp_path / "net.pt")
    assert "unpruned" not in opened.model.yaml
    networks.DetectionModel(opened.model.yaml, nc=80, verbose=False)


# Deployed


def test_it_is_exported_from_the_command_line(pruned: Detector, native: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    command = [sys.executable, "-m", "edgedeploy", "export", str(native), "--backend", "onnxruntime"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEDEPLOY_HISTORY": str(tmp_path / "history.db")}
    command += ["--precision", "fp32", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    from edgedeploy import plugins

    artifact = Artifact.open(tmp_path / "pruned.edge")
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open(artifact.files, artifact.signatures)
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    found = session.run({"images": image})["detections"]
    expected = EagerSession(load(native)).run({"images": image})["detections"]
    np.testing.assert_allclose(np.float32(found), np.float32(expected), rtol=1e-3, atol=1e-3)


# Refused


def saved(path: Path, network: Any, **more: Any) -> Path:
    torch.save({"model": network, "train_args": {"imgsz": 64}, **more}, path)
    return path


def unpruned() -> Any:
    return networks.DetectionModel("yolov8n.yaml", nc=4, verbose=False)


def fused() -> Any:
    return unpruned().eval().fuse(verbose=False)


def cleaned() -> Any:
    """Fused, without the bound methods that fusing leaves in the layers."""
    network = fused()
    for layer in network.modules():
        layer.__dict__.pop("forward", None)
    return network


def of(name: str) -> Callable[[], Any]:
    return lambda: networks.DetectionModel(f"{name}.yaml", nc=4, verbose=False)


def changed(change: Callable[[Any], None]) -> Callable[[], Any]:
    def make() -> Any:
        network = unpruned()
        change(network)
        return network

    return make


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "segmentation": (lambda: networks.SegmentationModel("yolov8n-seg.yaml", verbose=False), "not a detection model"),
    "fused": (fused, "saved after it was fused"),
    "fused and cleaned": (cleaned, "is fused"),
    "yolov10": (of("yolov10n"), "names 'SCDown'"),
    "yolov9": (of("yolov9t"), "names 'ELAN1'"),
    "yolov5": (of("yolov5n"), "row 0 of its yaml, Conv,"),
    "yolo26": (of("yolo26n"), "end2end"),
    "activation": (changed(lambda n: setattr(n.model[3], "act", torch.nn.Identity())), "act is Identity"),
    "connection": (changed(lambda n: setattr(n.model[2].m[0], "add", False)), "computes something else"),
    "a foreign layer": (changed(lambda n: n.model[2].m.append(torch.nn.Identity())), "is Identity"),
    "no yaml": (changed(lambda n: delattr(n, "yaml")), "damaged"),
    "yaml": (changed(lambda n: setattr(n, "yaml", ["yolov8n"])), "damaged"),
    "width": (changed(lambda n: setattr(n.model[0].conv, "out_channels", "many")), "it has to be between"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_compressed_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    make, said = REFUSED[what]
    try:
        network = make()
    except FileNotFoundError:
        pytest.skip(f"this release of ultralytics has no {what}")
    with pytest.raises((UsageError, Untrusted), match=said) as caught:
        checkpoint.read(saved(tmp_path / "net.pt", network))
    assert "net.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(aerial: Path, native: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "net.txt").write_text("weights")
    (tmp_path / "torn.safetensors").write_bytes(native.read_bytes()[:-100])
    expected = {
        aerial: "architecture 'aerial', not a YOLOv8",
        tmp_path / "net.onnx": "is an ONNX file",
        tmp_path / "net.txt": "is no model file",
        tmp_path / "none.pt": "does not exist",
        tmp_path / "torn.safetensors": "does not hold the weights",
    }
    for path, said in expected.items():
        with pytest.raises(UsageError, match=said) as caught:
            checkpoint.read(path)
        assert "\n" not in str(caught.value)


def test_a_damaged_lineage_is_refused(native: Path, tmp_path: Path) -> None:
    data = native.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["edgedeploy"])
    for lineage, said in (
        ({"source": 3}, "expected text"),
        ("best.pt", "expected a mapping"),
        ([], "expected a mapping"),
    ):
        header["__metadata__"]["edgedeploy"] = json.dumps({**record, "lineage": lineage})
        text = json.dumps(header).encode()
        path = tmp_path / "net.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        with pytest.raises(UsageError, match=said):
            checkpoint.read(path)
    for text_of_it in ("{", "[1]", '{"lineage": 3}', "[" * 100_000):
        path = saved(tmp_path / "net.pt", unpruned(), edgedeploy=text_of_it)
        with pytest.raises(UsageError, match="lineage"):
            checkpoint.read(path)


def test_what_could_not_be_read_again_is_not_written(pruned: Detector, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    nan = LINEAGE.then(Step("finetune", {}, numbers={"ap50": float("nan")}))
    other = replace(pruned, network=fused())
    for wrong, said in ((replace(pruned, lineage=nan), "not a finite number"), (other, "no YOLOv8 or YOLO11 detector")):
        for write in (checkpoint.write, checkpoint.write_ultralytics):
            with pytest.raises(EdgeDeployError, match=said):
                write(path, wrong)
    for write in (checkpoint.write, checkpoint.write_ultralytics):
        with pytest.raises(UsageError, match="cannot be written"):
            write(tmp_path / "no folder" / "net", pruned)
    assert list(tmp_path.iterdir()) == []
