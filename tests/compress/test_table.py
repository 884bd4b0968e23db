"""From a folder to a table: where the network comes from, and how its trainings went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.compress.folder import network_file, training_folder
from edgedeploy.compress.lineage import Lineage, Step
from edgedeploy.compress.recipe import Recipe
from edgedeploy.compress.result import CompressionRun, Used
from edgedeploy.compress.table import in_words, short, table_of
from edgedeploy.compress.training.epochs import Epoch, write
from edgedeploy.records import to_json
from edgedeploy.report.compression.records import CompressionTable, Rung
from edgedeploy.tasks.samples import DetectionSet, Sample


def _made(folder: Path) -> CompressionTable:
    boxes = np.array([[1, 1, 20, 20]], np.float32)
    arrays = boxes, np.zeros(1, np.int64), np.full(1, 361.0), np.zeros(1, bool)
    data = DetectionSet("scenes", ("car",), (Sample(folder / "0.png", (64, 64), *arrays),), "val")
    used = Used("yolov8n.pt", "ab" * 32, "/somewhere/scenes.yaml", "cd" * 32, "ef" * 32, "coco", (64, 64), Recipe("r"))
    rungs = (Rung("sparse", "PyTorch fp32", "sparse", network_file("sparse"), "12" * 32, 10, 20, 30, (64, 64)),)
    return table_of(folder, CompressionRun(used, rungs, {}, doubts=("A doubt.",)), rungs, data)


def test_lineage_and_pictures_are_those_of_the_folder(tmp_path: Path) -> None:
    settings = {"sparse": {"epochs": 3, "size": [64, 64], "overrides": {}}, "slimming": {"rate": 0.01}}
    tools = {"protocol": "coco", "size": "64x64"}
    step = Step("sparse", settings, "cd" * 32, 7, 12.4, {"ap50": 0.5}, tools)
    record = {"schema": 1, "lineage": to_json(Lineage("yolov8n.pt", "ab" * 32, (step,)))}
    header = json.dumps({"__metadata__": {"edgedeploy": json.dumps(record)}}).encode()
    (tmp_path / "sparse.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    log = tmp_path / training_folder("sparse") / "epochs.jsonl"
    log.parent.mkdir()
    write(log, [Epoch(1, {"box_loss": 1.0}, 0.01, small={"model.0.bn": 0.1})])
    found = _made(tmp_path)
    assert found.lineage == (
        f"from yolov8n.pt, sha256 {'ab' * 6}; trained on scenes.yaml, sha256 {'cd' * 6}, judged on sha256 {'ef' * 6}",
        "sparse (epochs 3, size 64x64, rate 0.01), seed 7, 12 s: ap50 0.5 (protocol coco, size 64x64)",
    )
    assert (found.data, found.images, found.instances, found.digest) == ("scenes (val)", 1, 1, "ef" * 32)
    assert found.doubts == ("A doubt.",)
    assert [one.model for one in found.paper] == ["YOLOv8m"]
    pytest.importorskip("matplotlib")
    assert list(found.pictures) == ["sparse.png"]
    assert (tmp_path / "sparse.png").read_bytes().startswith(b"\x89PNG")


def test_without_files_the_run_says_where_the_network_is_from(tmp_path: Path) -> None:
    found = _made(tmp_path)
    assert len(found.lineage) == 1
    assert found.lineage[0].startswith("from yolov8n.pt, sha256 abab")
    assert found.pictures == {}
    (tmp_path / "sparse.safetensors").write_bytes(b"nothing of ours")
    assert _made(tmp_path).lineage == found.lineage


def test_runtimes_are_called_what_their_makers_call_them() -> None:
    assert (in_words("onnxruntime"), short("onnxruntime")) == ("ONNX Runtime", "ONNX")
    assert (in_words("somebody"), short("tensorrt")) == ("somebody", "TensorRT")
