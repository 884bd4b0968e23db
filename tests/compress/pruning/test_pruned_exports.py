"""A pruned detector goes through every exporter, and every form of it on the way holds on the parity ladder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch_pruning")
pytest.importorskip("ultralytics")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import torch
from torch import nn

from edgedeploy import capture, device, plugins
from edgedeploy.artifact import CalibrationRecord
from edgedeploy.compress import checkpoint
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Lineage
from edgedeploy.compress.pruning.prune import prune_detector
from edgedeploy.compress.recipe import Pruning
from edgedeploy.errors import Unavailable
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.ladder import climb
from edgedeploy.model import Graph, InputShape, Model, load
from edgedeploy.models.yolo import quietly
from edgedeploy.tasks.detect import Detect
from edgedeploy.tensors import Array

SIDE = 64
#: Every kind of layer of YOLOv8n at its widths, and two of its three scales: exporters take long for what is repeated.
ROWS: dict[str, Any] = {
    "nc": 2,
    "scales": {"n": [0.33, 0.25, 1024]},
    "scale": "n",
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C2f", [128, True]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 1, "SPPF", [512, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 3, "C2f", [256]],
        [[8, 5], 1, "Detect", ["nc"]],
    ],
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def captured_once() -> Iterator[None]:
    """The graph is the same for all; capturing it anew for every exporter and ladder would take most of the time."""
    capture_anew, made = capture._captured, {}

    def captured(graph: Graph, opset: int) -> Any:
        key = (graph.network, opset)
        if key not in made:
            made[key] = capture_anew(graph, opset)
        return copy.deepcopy(made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_captured", captured)
        yield


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small YOLOv8 without half of its channels, by way of its file."""
    with quietly():
        from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    network = DetectionModel(copy.deepcopy(ROWS), verbose=False)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of these images at once, so that they reach the head
    task = Detect(("car", "van"), (SIDE, SIDE), strides=(8, 16))
    with torch.no_grad():
        network.train()(torch.cat([torch.from_numpy(task.prepare(image).tensors[0]) for image in photographs(4)]))
        for branch in network.eval().model[-1].cv3:  # few detections, and no ties that rounding could turn
            branch[-1].weight *= 10.0
            nn.init.constant_(branch[-1].bias, -3.0)
    detector = Detector(network, task.labels, task.size, Lineage("a.pt", "0" * 64))
    small, _ = prune_detector(detector, Pruning(0.5))
    path = tmp_path_factory.mktemp("half") / "half.safetensors"
    checkpoint.write(path, small)
    return load(str(path), InputShape())


def photographs(count: int, first: int = 0) -> list[Array]:
    """Smooth fields with squares on them."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    pictures: list[Array] = []
    for i in range(first, first + count):
        generator = np.random.default_rng(i)
        image = np.stack([y, x, 1 - y], axis=-1) * 120 * generator.random(3) + 40
        for row, column in generator.integers(0, SIDE - 16, (5, 2)):
            image[row : row + 16, column : column + 16] = generator.integers(0, 256, 3)
        pictures.append(image.clip(0, 255).astype(np.uint8))
    return pictures


@pytest.mark.parametrize(
    ("name", "target", "lowered"),
    [
        ("onnxruntime", None, []),
        ("executorch", None, ["exported program, exporter's"]),
        ("coreml", "iphone-15", ["ML program in fp32"]),
        ("tensorrt", "jetson-orin-nano", ["ONNX in fp32"]),
    ],
)
@pytest.mark.slow
def test_every_form_of_a_pruned_detector_holds(
    name: str, target: str | None, lowered: list[str], half: Model, tmp_path: Path
) -> None:
    """Those for Apple and NVIDIA run in their rehearsals where their runtimes are not."""
    try:
        kind = plugins.find(plugins.EXPORTERS, name)
    except Unavailable as missing:
        pytest.skip(str(missing))
    exporter = kind.for_device(device.load(target) if target else None, "fp32", {})
    samples = photographs(4)
    evidence = Evidence(samples, "mine", CalibrationRecord("mine", len(samples), "0" * 64))
    artifact = export(half, Request(exporter, evidence), tmp_path)
    ladder = climb(half, artifact, Evidence(photographs(2, first=100), "others"), threads=1)
    held = [rung.name for rung in ladder.rungs if rung.state == "held"]
    assert held == ["eager", "input", "exported program", "ONNX", *lowered, "artifact"], ladder.findings
