"""A copy of a YOLO network in which every channel has one producer, as a dependency graph wants it.

A C2f block (and C3k2, which is one) makes two streams by one convolution and halves its result. A graph of couplings
through the halving would tie the two halves together, which nothing asks for; here they are two convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edgedeploy.errors import UsageError

#: Layers of YOLOv8 and YOLO11; a network with any other layer of Ultralytics is of another family.
_KNOWN = frozenset(
    {"DetectionModel", "Conv", "DWConv", "Concat", "C2f", "C3k2", "C3k", "Bottleneck", "SPPF", "C2PSA", "PSABlock"}
    | {"Attention", "Detect", "DFL"}
)
#: Blocks whose first convolution makes two streams.
HALVED = frozenset({"C2f", "C3k2"})


class Halved(nn.Module):
    """A C2f block with two convolutions, ``cv1[0]`` and ``cv1[1]``, in place of one whose output is halved."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.c = block.c
        self.cv1 = nn.ModuleList(_rows(block.cv1, half * block.c, (half + 1) * block.c) for half in range(2))
        self.cv2 = block.cv2
        self.m = block.m
        self.f, self.i = block.f, block.i  # where Ultralytics' forward takes its input from

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C', H, W), bit for bit as the block that it was made from."""
        streams = [conv(x) for conv in self.cv1]
        for bottleneck in self.m:
            streams.append(bottleneck(streams[-1]))
        out: torch.Tensor = self.cv2(torch.cat(streams, 1))
        return out


def split(network: Any) -> Any:
    """A copy of the network with every C2f halved.

    Raises:
        UsageError: as in `check`.
    """
    check(network)
    twin = copy.deepcopy(network)
    for name, block in halved(twin):
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, Halved(block))
    return twin


def skeleton(network: Any) -> Any:
    """A copy of the network without its numbers, on the meta device: shapes alone, whatever its size.

    Its layers are in eval mode and its head returns raw predictions, which need no anchors.
    """
    tensors = [*network.parameters(), *network.buffers()]
    bones = {id(t): _bone(t) for t in tensors}
    twin = copy.deepcopy(network, bones)
    twin.eval()
    if hasattr(twin, "model"):
        twin.model[-1].training = True
    return twin


def halved(network: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of every block whose first convolution makes two streams, in order."""
    found = [(name, block) for name, block in network.named_modules() if type(block).__name__ in HALVED]
    return iter(found)


def check(network: Any) -> None:
    """Refuse what cannot be pruned.

    Raises:
        UsageError: not a YOLOv8 or YOLO11 detector, its batch normalisation is folded, or it has none.
    """
    foreign = {
        type(m).__name__
        for m in network.modules()
        if not type(m).__module__.startswith("torch.nn.") and type(m).__name__ not in _KNOWN
    }
    layers = list(getattr(network, "model", ()))
    if foreign or type(network).__name__ != "DetectionModel" or not layers or type(layers[-1]).__name__ != "Detect":
        what = f"has layers of class {', '.join(sorted(foreign)[:3])}" if foreign else f"is a {type(network).__name__}"
        raise UsageError(f"The network {what}; pruning takes detectors of the families YOLOv8 and YOLO11.")
    if getattr(layers[-1], "one2one_cv2", None) is not None:
        raise UsageError("The network's head has a second branch (end to end); pruning takes YOLOv8 and YOLO11.")
    for name, module in network.named_modules():
        if type(module).__name__ in ("Conv", "DWConv") and not isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
            raise UsageError(
                f"{name} has no batch normalisation, whose scale factors say what to prune: the network is fused. "
                "Give the checkpoint that training wrote."
            )


def _rows(conv: Any, start: int, stop: int) -> Any:
    """A convolution with its normalisation, of which only some output channels are left."""
    part = copy.deepcopy(conv)
    kept = slice(start, stop)
    part.conv.weight = nn.Parameter(conv.conv.weight.detach()[kept].clone())
    part.conv.out_channels = part.bn.num_features = stop - start
    part.bn.weight = nn.Parameter(conv.bn.weight.detach()[kept].clone())
    part.bn.bias = nn.Parameter(conv.bn.bias.detach()[kept].clone())
    part.bn.running_mean = conv.bn.running_mean[kept].clone()
    part.bn.running_var = conv.bn.running_var[kept].clone()
    return part


def _bone(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty) if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() else empty
