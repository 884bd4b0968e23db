"""Structured pruning: a really smaller network of the same classes, not one with masks."""

from __future__ import annotations

import copy
import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Step
from edgedeploy.compress.pruning.count import count
from edgedeploy.compress.pruning.groups import Group, groups, named, pairs
from edgedeploy.compress.pruning.importance import importance
from edgedeploy.compress.pruning.policy import Gain, Kept, choose
from edgedeploy.compress.pruning.split import check, halved, skeleton
from edgedeploy.compress.recipe import Pruning
from edgedeploy.errors import UsageError


@dataclass(frozen=True)
class Narrowed:
    """Output channels of one convolution, before and after."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    ``layers`` are all convolutions, in order; ``params`` and ``macs`` (at ``size``, height and width) are before and
    after.
    """

    layers: tuple[Narrowed, ...]
    size: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


def prune(network: Any, kept: Kept, among: Sequence[Group] | None = None) -> Any:
    """A new network with only the kept channels, of Ultralytics' own classes; ``network`` is left as it is.

    It trains, is copied, pickled, fused and exported like any other. What the removed channels gave to the layers after
    them, a constant where only their scale is zero, is gone: fine-tuning is expected to follow.

    Args:
        network: DetectionModel, batch normalisation not folded; may be on the meta device.
        kept: indices of channels by name of the group, as `policy.choose` gives them. Groups that
            are not named keep all.
        among: the groups of the network where they are at hand; found anew otherwise.

    Raises:
        UsageError: unknown group; indices outside of it, twice or none; unequal numbers in the halves of a block; the
            network is of another family, or fused.
        Unavailable: torch-pruning is not installed.
    """
    check(network)
    known = groups(network, ()) if among is None else among
    named(known, kept)
    _sound(known, kept)
    rows: dict[str, set[int]] = {}
    columns: dict[str, set[int]] = {}
    for group in known:
        removed = set(range(group.width)) - set(kept.get(group.name, range(group.width)))
        for spans, table in ((group.layers, rows), (group.consumers, columns)):
            for span in spans:
                table.setdefault(span.layer, set()).update(span.start + i for i in removed)
    small = copy.deepcopy(network)
    with torch.no_grad():
        for name, gone in rows.items():
            _narrow(small.get_submodule(name.removesuffix(".bn")), sorted(gone))
        for name, gone in columns.items():
            _shorten(small.get_submodule(name), sorted(gone))
    for _, block in halved(small):
        block.c = block.cv1.conv.out_channels // 2
    return small


def prune_detector(detector: Detector, pruning: Pruning) -> tuple[Detector, Pruned]:
    """The stage: find the groups, score and choose their channels, and take the others away.

    Raises:
        UsageError: as in `choose` and `prune`; there is no such device.
        Unavailable: torch-pruning is not installed, or too little is known of the device.
    """
    began = time.monotonic()
    network, size = detector.network, detector.size
    settled = _settled(pruning)
    found = groups(network, settled.keep)
    scores = importance(network, found)
    gain = _gain(network, found, size, settled) if settled.policy == "latency" else None
    small = prune(network, choose(found, scores, settled, gain), found)
    before, after = count(network, size), count(small, size)
    record = Pruned(_widths(network, small), size, (before.params, after.params), (before.macs, after.macs))
    numbers = {"params": float(after.params), "macs": float(after.macs)}
    tools = {name: importlib.metadata.version(name) for name in ("torch", "torch-pruning", "ultralytics")}
    settings = {**asdict(settled), "size": list(size)}
    step = Step("prune", settings, seconds=time.monotonic() - began, numbers=numbers, tools=tools)
    return detector.after(small, step), record


def _settled(pruning: Pruning) -> Pruning:
    """With the number of channels that the device computes at once, where it is to be asked."""
    if pruning.round_to:
        return pruning
    from edgedeploy.compress.pruning.granularity import granularity

    return replace(pruning, round_to=granularity(pruning.device))


def _gain(network: Any, found: Sequence[Group], size: tuple[int, int], pruning: Pruning) -> Gain:
    """What channels buy on the device, predicted."""
    from edgedeploy.compress.pruning.latency import Predictor, worth

    predictor = Predictor.of(pruning.device)
    worths = worth(network, found, size, pruning.device)
    bones = skeleton(network)
    whole = predictor.seconds(bones, size)

    def saved(kept: Kept) -> float:
        return 1 - predictor.seconds(prune(bones, kept, found), size) / whole

    return Gain(worths.per_channel, saved)


def _sound(known: Sequence[Group], kept: Kept) -> None:
    """Refuse indices that do not make a network."""
    for members in pairs(known):
        numbers = {group.name: len(kept.get(group.name, range(group.width))) for group in members}
        if len(set(numbers.values())) > 1:
            told = ", ".join(f"{number} of {name}" for name, number in numbers.items())
            raise UsageError(f"The halves of a block keep equal numbers of channels; these are {told}.")
        for group in members:
            indices = kept.get(group.name, range(group.width))
            if not indices:
                raise UsageError(f"No channel of {group.name} is kept; keep at least one of its {group.width}.")
            if len(set(indices)) < len(indices) or not set(indices) <= set(range(group.width)):
                raise UsageError(
                    f"The channels to keep of {group.name} have to be different numbers from 0 to {group.width - 1}."
                )


def _narrow(layer: Any, gone: list[int]) -> None:
    """Take output channels from a convolution and its normalisation."""
    import torch_pruning

    if not gone:
        return
    conv, norm = layer.conv, layer.bn
    trained = [parameter.requires_grad for parameter in (conv.weight, norm.weight, norm.bias)]
    depthwise = conv.groups > 1
    cut = torch_pruning.prune_depthwise_conv_out_channels if depthwise else torch_pruning.prune_conv_out_channels
    cut(conv, gone)
    torch_pruning.prune_batchnorm_out_channels(norm, gone)
    for parameter, flag in zip((conv.weight, norm.weight, norm.bias), trained, strict=True):
        parameter.requires_grad_(flag)


def _shorten(conv: Any, gone: list[int]) -> None:
    """Take input channels from a convolution."""
    import torch_pruning

    if not gone:
        return
    flag = conv.weight.requires_grad
    torch_pruning.prune_conv_in_channels(conv, gone)
    conv.weight.requires_grad_(flag)


def _widths(network: Any, small: Any) -> tuple[Narrowed, ...]:
    narrow = dict(small.named_modules())
    return tuple(
        Narrowed(name, conv.out_channels, narrow[name].out_channels)
        for name, conv in network.named_modules()
        if isinstance(conv, nn.Conv2d)
    )
