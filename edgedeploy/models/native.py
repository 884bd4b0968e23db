"""Checkpoints of this project's own and of pruned networks: one .safetensors file, what they are in its header.

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
from safetensors.torch import load_file
from safetensors.torch import save as serialized

from edgedeploy.errors import EdgeDeployError, UsageError, did_you_mean
from edgedeploy.model import InputShape, Model, Source, safetensors_metadata
from edgedeploy.models.detection_graph import detection_graph, divisible
from edgedeploy.models.keyword_graphs import NETWORKS, graphs
from edgedeploy.tasks import Detect, Keywords, contract_of, from_contract

#: Architecture names to what builds them from the options of a record, as ``module:callable``.
ARCHITECTURES = {
    "aerial": "edgedeploy.models.aerial:AerialNet",
    "ds-cnn": "edgedeploy.models.ds_cnn:DsCnn",
    "lmuformer": "edgedeploy.models.lmuformer:LMUFormer",
    "mean-fbank": "edgedeploy.models.mean_fbank:MeanFbank",
    "yolo": "edgedeploy.models.pruned_yolo:build",
}

#: For those that are exported in another form than they are trained in: ``module:callable``, given (network, shape).
DEPLOYABLE = {"yolo": "edgedeploy.models.yolo:deployable"}

#: Pixels of a side of the input that a record may ask for; a user may ask for more.
_LARGEST = 8192


def load(source: Source, shape: InputShape) -> Model:
    """The network in a checkpoint of this project, in eval mode.

    Raises:
        UsageError: not such a checkpoint, an unknown architecture, or weights that do not fit it.
        Unavailable: what defines the architecture's layers is not installed.
    """
    path = Path(source.reference)
    record, network, task = read(path)
    if isinstance(task, Keywords):
        try:
            found = graphs(network, task, shape)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return Model(source.name, found, source, contract_of(task))
    if shape.size:
        task = replace(task, size=shape.size)
    divisible(path, task.size, task.strides)
    network.requires_grad_(False)
    if record["architecture"] in DEPLOYABLE:
        network = _named(DEPLOYABLE[record["architecture"]])(network, shape)
    return Model(source.name, {"main": detection_graph(network, task, shape)}, source, contract_of(task))


def read(path: Path) -> tuple[Mapping[str, Any], Any, Any]:
    """The record of a checkpoint of this project, its network in float32 and eval mode, and its task.

    The task is a `Keywords` where the network hears words, else a `Detect`.

    Raises:
        UsageError: not such a checkpoint, an unknown architecture, or weights that do not fit it.
        Unavailable: what defines the architecture's layers is not installed.
    """
    record = safetensors_metadata(path)
    network = _build(path, record)
    try:
        own = network.state_dict()
        weights = {
            name: tensor.to(own[name].dtype if name in own else tensor.dtype, copy=True)
            for name, tensor in load_file(path).items()
        }
        network.load_state_dict(weights, assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not hold the weights of its architecture ({line}).") from error
    task = from_contract(record.get("task", {}))
    wanted = Keywords if isinstance(network, NETWORKS) else Detect
    if not isinstance(task, wanted):
        raise UsageError(
            f"{path}: the task '{task.kind}' cannot be exported yet with the architecture "
            f"'{record['architecture']}'; only '{wanted.kind}' can."
        )
    if isinstance(task, Detect):
        _check_task(path, network, task)
    return record, network.eval(), task


def _check_task(path: Path, network: Any, task: Detect) -> None:
    """Refuse a task that the network contradicts, where it has names and strides of its own, or of an absurd size."""
    if max(task.size) > _LARGEST:
        raise UsageError(f"{path}: the image size {task.size[0]}x{task.size[1]} is more than {_LARGEST} a side.")
    names, strides = getattr(network, "names", None), getattr(network, "stride", None)
    if names is not None and tuple(names.values()) != task.labels:
        raise UsageError(f"{path} is damaged: its task has other labels than its network.")
    if strides is not None and (tuple(int(s) for s in strides) != task.strides or task.head != "yolov8"):
        raise UsageError(f"{path} is damaged: its task has other strides or another head than its network.")


def save(path: Path, network: torch.nn.Module, record: Mapping[str, Any]) -> None:
    """Write ``network`` with its header ``record``; through a temporary name, so never half.

    Args:
        path: the .safetensors file.
        network: its state dict is stored as it is.
        record: ``architecture``, ``options``, ``task`` and whatever else belongs to its lineage.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    header = json.dumps({"schema": 1, **record}, sort_keys=True)
    try:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        temporary.write_bytes(serialized(weights, {"edgedeploy": header}))  # its own save_file hides it from others
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _build(path: Path, record: Mapping[str, Any]) -> torch.nn.Module:
    name, options = record.get("architecture"), record.get("options", {})
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(f"{path} is of the unknown architecture '{name}'.{did_you_mean(str(name), ARCHITECTURES)}")
    try:
        network = _named(ARCHITECTURES[name])(**options)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except EdgeDeployError:
        raise
    except Exception as error:  # whatever a constructor makes of numbers that it was not written for
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: the options of its architecture '{name}' are wrong ({line}).") from error
    assert isinstance(network, torch.nn.Module)
    return network


def _named(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
