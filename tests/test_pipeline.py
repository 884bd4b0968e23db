"""Work that is not done twice, and never left half done: reuse, interruption, a disk that is full."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import torch

from edgedeploy import device, plugins
from edgedeploy.artifact import Artifact, writing
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.exporter import Evidence, Request
from edgedeploy.model import InputShape
from edgedeploy.pipeline import Images, evidence_from, export_checkpoint, read_calibration_set, still_true
from edgedeploy.tasks.dataset import read_detection_set

Exported = Callable[..., Artifact]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def request(scenes: Path, precision: str = "fp32", count: int = 200, **changed: Any) -> Request:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, changed.pop("options", {}))
    return Request(exporter, evidence_from(read_calibration_set(scenes, None), count), **changed)


# Reuse


def test_nothing_changed_is_nothing_done(exported: Exported, aerial: Path, scenes: Path) -> None:
    artifact = exported("fp32")
    before = {p: p.stat().st_mtime_ns for p in artifact.path.rglob("*")}
    again = export_checkpoint(str(aerial), request(scenes), artifact.path.parent)
    assert again.reused
    assert again.artifact.digest == artifact.digest
    assert {p: p.stat().st_mtime_ns for p in artifact.path.rglob("*")} == before


def test_reusing_imports_no_torch(exported: Exported, aerial: Path, scenes: Path) -> None:
    """Saying that there is nothing to do takes a fraction of a second, not the seconds that torch takes to import."""
    folder = exported("fp32").path.parent
    code = f"""
import sys
sys.argv = ["edgedeploy", "export", {str(aerial)!r}, "--precision", "fp32", "--calibrate", {str(scenes)!r},
            "-o", {str(folder)!r}, "--json"]
from edgedeploy.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(sorted({{"torch", "onnx", "onnxruntime", "onnxscript", "ultralytics"}} & set(sys.modules)))
"""
    here = {**os.environ, "EDGEDEPLOY_CHILD": "1"}  # in this very process
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=here)
    document, _, modules = done.stdout.rstrip().rpartition("\n")
    assert json.loads(document)["reused"] is True
    assert modules == "[]"


CHANGES: dict[str, Callable[[Request], Request]] = {
    "precision": lambda r: dataclasses.replace(r, exporter=dataclasses.replace(r.exporter, precision="fp16")),
    "option": lambda r: dataclasses.replace(r, exporter=dataclasses.replace(r.exporter, opset=19)),  # type: ignore[call-arg]
    "size": lambda r: dataclasses.replace(r, shape=InputShape(size=(64, 64))),
    "batch": lambda r: dataclasses.replace(r, shape=InputShape(batch=2)),
    "dynamic": lambda r: dataclasses.replace(r, shape=InputShape(dynamic=("batch",))),
    "device": lambda r: dataclasses.replace(r, device=device.load("raspberry-pi-5")),
    "head": lambda r: dataclasses.replace(r, head="yolov8"),
    "images": lambda r: dataclasses.replace(r, evidence=dataclasses.replace(r.evidence, origin="others")),
    "annotations": lambda r: dataclasses.replace(
        r,
        evidence=dataclasses.replace(
            r.evidence,
            calibration=dataclasses.replace(r.evidence.calibration, sha256="1" * 64),  # type: ignore[type-var]
        ),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_anything_changed_is_another_artifact(what: str, exported: Exported, aerial: Path, scenes: Path) -> None:
    artifact = exported("fp32")
    source = artifact.manifest.source
    asked = request(scenes)
    assert still_true(artifact.path, asked.digest(source)) is not None
    assert still_true(artifact.path, CHANGES[what](asked).digest(source)) is None


def test_another_checkpoint_under_the_same_name_is_another_artifact(exported: Exported, scenes: Path) -> None:
    artifact = exported("fp32")
    other = dataclasses.replace(artifact.manifest.source, sha256="0" * 64)
    assert still_true(artifact.path, request(scenes).digest(other)) is None


def test_another_version_of_a_tool_is_another_artifact(
    exported: Exported, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = exported("fp32")
    monkeypatch.setattr("edgedeploy.exporter.tool_versions", lambda: {"torch": "99"})
    assert still_true(artifact.path, request(scenes).digest(artifact.manifest.source)) is None


def test_where_the_checkpoint_lies_does_not_matter(
    exported: Exported, aerial: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(aerial, tmp_path / "aerial.safetensors")
    monkeypatch.chdir(tmp_path)
    assert export_checkpoint("aerial.safetensors", request(scenes), exported("fp32").path.parent).reused


def test_a_damaged_artifact_is_written_anew(exported: Exported, aerial: Path, scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "aerial.edge"
    shutil.copytree(exported("fp32").path, path)
    assert export_checkpoint(str(aerial), request(scenes), tmp_path).reused
    (path / "graphs" / "main.onnx").write_bytes(b"garbage")
    made = export_checkpoint(str(aerial), request(scenes), tmp_path)
    assert not made.reused
    assert made.artifact.model_size == exported("fp32").model_size
    assert [p.name for p in tmp_path.iterdir()] == ["aerial.edge"]


# A run that is killed

KILLED = """
import os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import edgedeploy_onnxruntime as backend
from edgedeploy.cli.app import main
from edgedeploy import artifact, exporter

where = {where!r}
def wait(*_, **__):
    print("here", flush=True)
    time.sleep(600)
if where == "capture":
    real = backend.to_onnx
    def to_onnx(graph, target, *rest):
        Path(target).write_bytes(b"half a graph")
        wait()
    backend.to_onnx = to_onnx
elif where == "seal":
    exporter.seal = wait
elif where == "rename":
    rename = Path.rename
    def slow(self, target):
        if str(target).endswith(".edge"):
            wait()
        return rename(self, target)
    Path.rename = slow
sys.argv = ["edgedeploy", "export", "big_net:linear", "-o", {out!r}]
main()
"""


NETWORK = """
import torch

def linear():
    network = torch.nn.Linear(400, 400)  # 640 kB, and a batch whose golden vectors are as large together
    network.example_inputs = (torch.rand(100, 400),)
    return network
"""


@pytest.fixture(scope="module", autouse=True)
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a module with a network that is exported quickly."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "big_net.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def killed(where: str, network: Path, out: Path) -> None:
    """Export in a process of its own, and kill it without warning at a certain place."""
    environment = {**os.environ, "PYTHONPATH": str(network), "EDGEDEPLOY_CHILD": "1"}  # in this very process
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(where=where, out=str(out))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        process.wait()


def small(out: Path) -> Artifact:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    samples = [np.full((100, 400), i, np.float32) for i in range(2)]
    return export_checkpoint("big_net:linear", Request(exporter, Evidence(samples, "two")), out).artifact


@pytest.mark.parametrize("where", ["capture", "seal", "rename"])
def test_a_killed_run_leaves_nothing_half_written_and_the_next_one_works(
    where: str, network: Path, tmp_path: Path
) -> None:
    killed(where, network, tmp_path)
    assert list(tmp_path.glob("*.edge")) == []  # nothing that looks finished
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".linear.edge.")
    artifact = small(tmp_path)
    assert Artifact.open(artifact.path).digest == artifact.digest
    assert [p.name for p in tmp_path.iterdir()] == ["linear.edge"]


def test_a_killed_run_leaves_the_artifact_that_was_there(network: Path, tmp_path: Path) -> None:
    artifact = small(tmp_path)
    killed("rename", network, tmp_path)  # between stepping aside and stepping in
    with writing(tmp_path, "linear"):  # what the next run does first
        assert Artifact.open(tmp_path / "linear.edge").digest == artifact.digest


def test_an_interrupted_run_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgedeploy_onnxruntime.to_onnx", stop)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path)
    assert list(tmp_path.iterdir()) == []


# A disk that is full


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte, where that may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("taken", [128, 600, 1020], ids=["golden", "graph", "everything"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(taken: int, tiny_disk: Path) -> None:
    (tiny_disk / "other").write_bytes(bytes(taken << 10))
    with pytest.raises(EdgeDeployError, match=r"is full; nothing was written\. Free some space") as caught:
        small(tiny_disk / "out")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 1
    assert list((tiny_disk / "out").iterdir()) == []


def test_a_disk_that_fills_up_after_the_graph_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden vectors come last; numpy's own way of writing a file does not say why it failed."""
    written = Path.write_bytes

    def full(self: Path, data: Any) -> int:
        if self.suffix == ".npy":
            raise OSError(28, os.strerror(28), str(self))
        return written(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EdgeDeployError, match="is full"):
        small(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        small(tmp_path / "file" / "out")


# Evidence


def test_images_are_spread_over_the_data_set(scenes: Path) -> None:
    data = read_detection_set(scenes, "train")
    evidence = evidence_from(data, 4)
    assert len(evidence.samples) == 4
    assert evidence.labels == data.labels
    assert evidence.calibration is not None
    assert (evidence.calibration.count, evidence.calibration.classes) == (4, 4)
    chosen = [data.samples[i] for i in (0, 5, 10, 15)]
    expected = Images([s.image for s in chosen])
    for got, wanted in zip(evidence.samples, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert evidence.calibration.classes_seen == len({int(c) for s in chosen for c in s.classes})


def test_more_images_than_there_are_is_all_of_them(scenes: Path) -> None:
    assert len(evidence_from(read_detection_set(scenes, "val"), 10_000).samples) == 8


@pytest.mark.parametrize("most", [0, -1])
def test_no_images_is_refused(most: int, scenes: Path) -> None:
    with pytest.raises(UsageError, match="calibrate nothing"):
        evidence_from(read_detection_set(scenes, "val"), most)


def test_training_images_are_taken_where_there_are_some(scenes: Path, tmp_path: Path) -> None:
    assert len(read_calibration_set(scenes, None)) == 16
    assert len(read_calibration_set(scenes, "val")) == 8
    shutil.copytree(scenes.parent, tmp_path / "scenes")
    text = (tmp_path / "scenes" / "data.yaml").read_text().replace("train: images/train\n", "")
    (tmp_path / "scenes" / "data.yaml").write_text(text)
    assert len(read_calibration_set(tmp_path / "scenes" / "data.yaml", None)) == 8
    with pytest.raises(UsageError, match="no split 'train'"):
        read_calibration_set(tmp_path / "scenes" / "data.yaml", "train")


def test_data_is_of_no_use_to_a_network_that_takes_no_images(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not say how samples enter it.* --head"):
        export_checkpoint("big_net:linear", request(scenes, "int8"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_of_other_classes_is_refused_before_any_work(aerial: Path, scenes: Path, tmp_path: Path) -> None:
    asked = request(scenes)
    other = dataclasses.replace(asked, evidence=dataclasses.replace(asked.evidence, labels=("car", "van", "ship")))
    with pytest.raises(UsageError, match="Wrong number of classes between data and model"):
        export_checkpoint(str(aerial), other, tmp_path)
    assert list(tmp_path.iterdir()) == []
