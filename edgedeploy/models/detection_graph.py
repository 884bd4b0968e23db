"""The graph of a detection network whose one input is an image and whose one output holds its detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, InputShape
from edgedeploy.tasks.detect import Detect
from edgedeploy.tensors import Signature, TensorSpec


def divisible(path: Path, size: tuple[int, int], strides: tuple[int, ...]) -> None:
    """Refuse an input ``size`` (height, width) in pixels that ``strides`` do not divide.

    Raises:
        UsageError: says the size and the number that it has to be a multiple of.
    """
    if any(side % max(strides) or side <= 0 for side in size):
        raise UsageError(f"{path}: the image size {size[0]}x{size[1]} is not a multiple of {max(strides)}.")


def detection_graph(network: Any, task: Detect, shape: InputShape) -> Graph:
    """``network`` with its signature: ``images`` (batch, 3, height, width) in, ``detections`` out.

    The network runs once, at ``task.size``. What ``shape`` leaves dynamic is named in place of numbers; the number of
    detections follows the size, unless the network picks a fixed number itself (head ``end2end``).
    """
    with torch.no_grad():
        output = network(torch.zeros(1, 3, *task.size))
    free = "size" in shape.dynamic
    batch: int | str = "batch" if "batch" in shape.dynamic else shape.batch
    sides: tuple[int | str, int | str] = ("height", "width") if free else task.size
    anchors: int | str = "anchors" if free and task.head != "end2end" else output.shape[2]
    signature = Signature(
        inputs=(TensorSpec("images", "float32", (batch, 3, *sides)),),
        outputs=(TensorSpec("detections", "float32", (batch, output.shape[1], anchors)),),
    )
    return Graph(network, signature, max(task.strides))
