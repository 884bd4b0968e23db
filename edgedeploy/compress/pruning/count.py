"""What a network has to compute, from shapes alone: parameters and multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgedeploy.compress.pruning.split import skeleton


@dataclass(frozen=True)
class Count:
    """Parameters as published, batch normalisation not folded, and multiply-accumulates of the convolutions."""

    params: int
    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-accumulate."""
        return 2 * self.macs


def count(network: Any, size: tuple[int, int]) -> Count:
    """Count a detector for one image of ``size`` (height, width). Nothing is computed, so any size is quick.

    Products of matrices, which only the attention of YOLO11 has, are not counted; figures as published leave them out.
    """
    bones = skeleton(network)
    macs = 0

    def add(conv: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(conv, nn.Conv2d)
        macs += output[0].numel() * conv.weight[0].numel()

    for module in bones.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
        elif hasattr(module, "bn"):
            module.bn = nn.Identity()  # costs nothing once folded, and most of the time here
    with torch.no_grad():
        bones(torch.empty(1, 3, *size, device="meta"))
    return Count(sum(parameter.numel() for parameter in network.parameters()), macs)
