"""The penalty on the scale factors of batch normalisation, and the step of the optimiser that it belongs into.

Network slimming (Liu et al., ICCV 2017, arXiv:1708.06519, equation 1) adds ``rate * sum |gamma|`` to the loss. It is
not added to the loss here but where it acts as written: to gradients that are no longer scaled by mixed precision,
after they were clipped, and once per step of the optimiser however many batches were accumulated for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgedeploy.compress.recipe import Part, Pruning, Slimming
from edgedeploy.errors import UsageError

#: Norm that the gradients are clipped to, Ultralytics' own.
CLIP = 10.0

#: What pruning leaves alone unless it is told otherwise.
KEEP = Pruning().keep

_NORMS = (nn.BatchNorm2d,)


def rate_at(slimming: Slimming, epoch: int, epochs: int) -> float:
    """Weight of the penalty in an epoch counted from 0: ``rate * (1 - (1 - floor) * epoch / epochs)``."""
    return slimming.rate * (1 - (1 - slimming.floor) * epoch / max(epochs, 1))


def prunable(network: Any, keep: tuple[Part, ...] = KEEP) -> tuple[str, ...]:
    """Names of the batch normalisations whose channels pruning may remove, in the order of the layers.

    Raises:
        UsageError: the network is of another family, or fused.
        Unavailable: torch-pruning is not installed.
    """
    from edgedeploy.compress.pruning.groups import groups

    found = {span.layer for group in groups(network, keep) for span in group.layers}
    return tuple(name for name, _ in network.named_modules() if name in found)


def scales(network: Any, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Scale factors (channels,) by the name of their batch normalisation.

    Raises:
        UsageError: one of the names is no batch normalisation with scale factors of this network.
    """
    found: dict[str, nn.Parameter] = {}
    modules = dict(network.named_modules())
    for name in names:
        module = modules.get(name)
        if not isinstance(module, _NORMS) or module.weight is None:
            raise UsageError(f"{name} is no batch normalisation with scale factors of this network.")
        found[name] = module.weight
    return found


def small_shares(factors: Mapping[str, torch.Tensor], below: float) -> dict[str, float]:
    """Per layer, the share of scale factors whose magnitude is less than ``below``."""
    return {name: float((gamma.detach().abs() < below).float().mean()) for name, gamma in factors.items()}


@dataclass(frozen=True, eq=False)
class Penalty:
    """``rate * sum |gamma|`` over some scale factors, as a part of steps of an optimiser."""

    slimming: Slimming
    factors: Mapping[str, nn.Parameter]

    @torch.no_grad()
    def add(self, rate: float) -> None:
        """Add the subgradient ``rate * sign(gamma)``, with sign(0) = 0, to gradients that are final otherwise.

        Factors that are not trained are left alone.
        """
        for gamma in self.factors.values():
            if not gamma.requires_grad:
                continue  # the optimiser holds frozen ones too, and would move them by this
            sign = gamma.sign()
            if gamma.grad is None:
                gamma.grad = sign.mul_(rate)
            else:
                gamma.grad.add_(sign, alpha=rate)

    @torch.no_grad()
    def shrink(self, rate: float, optimizer: torch.optim.Optimizer) -> None:
        """The proximal step ``gamma <- sign(gamma) max(|gamma| - lr * rate, 0)``, with each factor's learning rate."""
        ours = {id(gamma) for gamma in self.factors.values() if gamma.requires_grad}
        for group in optimizer.param_groups:
            for gamma in group["params"]:
                if id(gamma) in ours:
                    gamma.copy_(torch.nn.functional.softshrink(gamma, float(group["lr"]) * rate))


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    penalty: Penalty | None,
    rate: float,
) -> bool:
    """One step of the optimiser, with gradients unscaled, clipped and then penalised; gradients are zero afterwards.

    Returns:
        Whether the step was taken: ``scaler`` leaves one out whose gradients are not finite, and the penalty with it.
    """
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(network.parameters(), max_norm=CLIP)
    if penalty is not None and penalty.slimming.method == "subgradient":
        penalty.add(rate)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    taken = scaler.get_scale() >= before
    if taken and penalty is not None and penalty.slimming.method == "proximal":
        penalty.shrink(rate, optimizer)
    optimizer.zero_grad()
    return taken
