"""Checkpoints of this project's own networks: one .safetensors file, the architecture and task in its header.

The header's ``edgedeploy`` record is JSON: ``schema``, ``architecture`` (a key of `ARCHITECTURES`), ``options``
(keyword arguments of its constructor) and ``task`` (the task contract). No pickle is involved.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.model import Graph, InputShape, Model, Source, safetensors_metadata
from edgedeploy.tasks import contract_of, from_contract
from edgedeploy.tasks.detect import Detect
from edgedeploy.tensors import Signature, TensorSpec

#: Architecture names to the class that builds them, as ``module:class``.
ARCHITECTURES = {"aerial": "edgedeploy.models.aerial:AerialNet"}


def load(source: Source, shape: InputShape) -> Model:
    """The network in a checkpoint of this project, in eval mode.

    Raises:
        UsageError: not such a checkpoint, an unknown architecture, or weights that do not fit it.
    """
    path = Path(source.reference)
    record = safetensors_metadata(path)
    network = _build(path, record)
    try:
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not hold the weights of its architecture ({line}).") from error
    network.eval().requires_grad_(False)
    task = from_contract(record.get("task", {}))
    if not isinstance(task, Detect):
        raise UsageError(f"{path}: the task '{task.kind}' cannot be exported yet; only 'detect' can.")
    if shape.size:
        task = replace(task, size=shape.size)
    stride = max(task.strides)
    if any(side % stride or side <= 0 for side in task.size):
        raise UsageError(f"{path}: the image size {task.size[0]}x{task.size[1]} is not a multiple of {stride}.")
    return Model(
        source.name, {"main": Graph(network, _signature(network, task, shape), stride)}, source, contract_of(task)
    )


def save(path: Path, network: torch.nn.Module, record: Mapping[str, Any]) -> None:
    """Write ``network`` with its header ``record``; through a temporary name, so never half.

    Args:
        path: the .safetensors file.
        network: its state dict is stored as it is.
        record: ``architecture``, ``options``, ``task`` and whatever else belongs to its lineage.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    header = json.dumps({"schema": 1, **record}, sort_keys=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, temporary, {"edgedeploy": header})
    temporary.replace(path)


def _build(path: Path, record: Mapping[str, Any]) -> torch.nn.Module:
    name, options = record.get("architecture"), record.get("options", {})
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(f"{path} is of the unknown architecture '{name}'.{did_you_mean(str(name), ARCHITECTURES)}")
    module, _, attribute = ARCHITECTURES[name].partition(":")
    try:
        network = getattr(importlib.import_module(module), attribute)(**options)
    except Exception as error:  # whatever a constructor makes of numbers that it was not written for
        raise UsageError(f"{path}: the options of its architecture '{name}' are wrong ({error}).") from error
    assert isinstance(network, torch.nn.Module)
    return network


def _signature(network: torch.nn.Module, task: Detect, shape: InputShape) -> Signature:
    with torch.no_grad():
        output = network(torch.zeros(1, 3, *task.size))
    batch: int | str = "batch" if "batch" in shape.dynamic else shape.batch
    sides: tuple[int | str, int | str] = ("height", "width") if "size" in shape.dynamic else task.size
    anchors: int | str = "anchors" if "size" in shape.dynamic else output.shape[2]
    return Signature(
        inputs=(TensorSpec("images", "float32", (batch, 3, *sides)),),
        outputs=(TensorSpec("detections", "float32", (batch, output.shape[1], anchors)),),
    )
