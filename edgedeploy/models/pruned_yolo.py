"""YOLOv8 and YOLO11 networks of any widths: described by their rows and by where their widths are other than those.

`describe` gives the options that a checkpoint's header holds, `build` the network of such options, of Ultralytics' own
classes, without weights. Before it is given any, it is on PyTorch's ``meta`` device: a header that claims a billion
channels allocates nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.models import yolo_rows
from edgedeploy.models.yolo import quietly

#: What of a layer follows from its width: class names to attributes.
_WIDTHS = {
    "Conv2d": ("in_channels", "out_channels", "groups"),
    "BatchNorm2d": ("num_features",),
    "Attention": ("num_heads", "head_dim", "key_dim", "scale"),
}

#: Blocks whose first convolution's output is split into two halves of ``c`` channels.
_SPLIT = ("C2f", "C3k2", "C2PSA")

#: The key of a network's ``yaml`` attribute that holds its rows where the others were made unusable.
UNPRUNED = "unpruned"

#: Side in pixels of the input at which the strides are found; a multiple of every stride.
_PROBE = 256


def describe(network: Any, labels: tuple[str, ...]) -> dict[str, Any]:
    """The options from which `build` makes ``network`` again, as plain JSON values.

    ``yaml`` are its rows, ``names`` the class names in order, ``widths`` maps a layer's path to its attributes that are
    other than those rows make them.

    Raises:
        UsageError: it is no YOLOv8 or YOLO11 detector, or its layers are not those of its rows.
    """
    yaml = yolo_rows.rows_of(network.yaml.get(UNPRUNED, network.yaml), len(labels))
    plain, actual = (dict(n.named_modules(remove_duplicate=False)) for n in (_assembled(yaml), network))
    widths: dict[str, dict[str, Any]] = {}
    for name in sorted(plain.keys() | actual.keys()):
        expected, found = (type(layers[name]).__name__ if name in layers else "nothing" for layers in (plain, actual))
        if expected != found:
            raise UsageError(f"its layer {name} is {found}, where its yaml gives {expected}.")
        changed = {
            key: getattr(actual[name], key)
            for key in _WIDTHS.get(found, ())
            if getattr(actual[name], key) != getattr(plain[name], key)
        }
        if changed:
            widths[name] = changed
    return {"yaml": deepcopy(yaml), "names": list(labels), "widths": widths}


def build(yaml: Any, names: Any, widths: Any) -> Any:
    """The ``DetectionModel`` of what `describe` gave, in eval mode, on the ``meta`` device.

    Its weights are what ``load_state_dict(..., assign=True)`` gives it. It can be trained: it has Ultralytics' default
    hyperparameters, and gradients everywhere but in the fixed weights that decode boxes.

    Raises:
        UsageError: a value that no such network has, or widths that do not fit together.
        Unavailable: ultralytics is not installed.
    """
    yolo_rows.check(yaml)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != yaml["nc"]:
        raise UsageError(f"its names are not the {yaml['nc']} names of its classes.")
    network = _assembled(yaml)
    layers = dict(network.named_modules())
    for name, attribute, value in _checked(widths, layers):
        setattr(layers[name], attribute, value)
    for layer in layers.values():
        _resize(layer)
    network.names = dict(enumerate(names))
    _measure_strides(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".dfl." not in name)
    return network.eval()


def guarded(yaml: Mapping[str, Any]) -> dict[str, Any]:
    """Rows for the ``yaml`` attribute of a pruned network from which Ultralytics cannot build an unpruned one.

    Its own trainer builds every network anew from its rows, at full width, and loads what fits: without a word, the
    pruning is gone and most weights are random. From these rows it stops with a sentence in place of that.
    """
    first, *rest = yaml["backbone"]
    sentence = (
        "This network is pruned, and building it anew from its yaml would silently undo that. Train it with "
        "'edgedeploy compress', or with a trainer whose get_model returns the network itself."
    )
    return {**yaml, "backbone": [[*first[:2], sentence, first[3]], *rest], UNPRUNED: dict(yaml)}


def _assembled(yaml: dict[str, Any]) -> Any:
    """The network of rows that are known to be harmless, at the widths that they give, on the ``meta`` device."""
    try:
        with quietly():
            tasks, utils = (importlib.import_module(f"ultralytics.{name}") for name in ("nn.tasks", "utils"))
    except ImportError as error:
        raise Unavailable.extra("ultralytics, which defines the layers of this network,", "ultralytics") from error
    network = tasks.DetectionModel.__new__(tasks.DetectionModel)
    nn.Module.__init__(network)
    network.yaml = {**deepcopy(yaml), "channels": 3}
    activation = tasks.Conv.default_act
    try:
        with torch.device("meta"):
            network.model, network.save = tasks.parse_model(deepcopy(network.yaml), ch=3, verbose=False)
    except Exception as error:  # single values that are right, and together are not
        line = " ".join(str(error).split())[:160]
        raise UsageError(f"its yaml cannot be built ({type(error).__name__}: {line}).") from error
    finally:
        tasks.Conv.default_act = activation  # of the whole process; parsing that fails leaves its own there
    tasks.initialize_weights(network)
    network.inplace = network.model[-1].inplace = True
    network.task, network.nc = "detect", yaml["nc"]
    network.args = utils.IterableSimpleNamespace(**utils.DEFAULT_CFG_DICT)
    return network


def _checked(widths: Any, layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, int | float]]:
    """(path, attribute, value) of ``widths``, where such a layer has such an attribute and the value is in range."""
    if not isinstance(widths, dict) or not all(isinstance(changed, dict) for changed in widths.values()):
        raise UsageError("its widths are no mapping of layers to attributes.")
    for name, changed in widths.items():
        for attribute, value in changed.items():
            if name not in layers or attribute not in _WIDTHS.get(type(layers[name]).__name__, ()):
                raise UsageError(f"its widths name {attribute[:40]!r} of {name[:80]!r}, which it does not have.")
            if attribute == "scale":
                right = type(value) is float and math.isfinite(value) and 0 < value <= 1
            else:
                right = type(value) is int and 1 <= value <= yolo_rows.WIDEST
            if not right:
                raise UsageError(
                    f"its widths give {name} {attribute} = {str(value)[:40]}; it has to be between 1 and "
                    f"{yolo_rows.WIDEST}."
                )
            yield name, attribute, value


def _resize(layer: Any) -> None:
    """Weights of ``layer`` in the shapes that its attributes say; where it splits an output in two, the halves."""
    if isinstance(layer, nn.Conv2d):
        if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
            raise UsageError(
                f"its widths give a convolution {layer.in_channels} and {layer.out_channels} channels, which its "
                f"{layer.groups} groups do not divide."
            )
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        layer.weight = nn.Parameter(torch.empty(shape, device="meta"))
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.empty(layer.out_channels, device="meta"))
    elif isinstance(layer, nn.BatchNorm2d):
        for name in ("weight", "bias"):
            setattr(layer, name, nn.Parameter(torch.empty(layer.num_features, device="meta")))
        for name in ("running_mean", "running_var"):
            setattr(layer, name, torch.empty(layer.num_features, device="meta"))
    elif type(layer).__name__ in _SPLIT:
        layer.c = layer.cv1.conv.out_channels // 2


def _measure_strides(network: Any) -> None:
    """Run the network without numbers: its widths fit together, and what comes out says its strides."""
    head = network.model[-1]
    try:
        network.eval()
        head.training = True  # gives the feature maps
        with torch.no_grad():
            output = network._predict_once(torch.empty(1, 3, _PROBE, _PROBE, device="meta"))
    except Exception as error:  # PyTorch and Ultralytics raise many kinds where shapes disagree
        line = " ".join(str(error).split())[:160]
        raise UsageError(f"its widths do not fit together ({line}).") from error
    features = output["feats"] if isinstance(output, dict) else output  # as releases before 8.4 give them
    strides = [_PROBE / feature.shape[-2] for feature in features]
    if any(stride != int(stride) for stride in strides) or sorted(set(strides)) != strides:
        raise UsageError(f"its strides are {strides}; they have to be rising whole numbers.")
    head.stride = network.stride = torch.tensor(strides)
