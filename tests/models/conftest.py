"""Keyword networks in which everything is at work, whatever their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgedeploy.models.lmuformer import LMUFormer


@pytest.fixture(scope="module")
def lively() -> Iterator[Callable[..., LMUFormer]]:
    """``lively(classes, ...)``: an `LMUFormer` in eval mode with random norms, whose memories remember something.

    With weights as they are drawn, the one signal that a memory is of is often silent for a whole clip.
    """
    torch = pytest.importorskip("torch")

    def make(classes: int, seed: int = 0, double: bool = False, **options: Any) -> LMUFormer:
        from edgedeploy.models.lmuformer import LMUFormer

        torch.manual_seed(seed)
        network = LMUFormer(classes, **options).requires_grad_(False)
        norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
        for norm in norms:
            norm.momentum = 1.0  # what one clip had is what inference takes for granted
        features = torch.randn(4, 32, network.bins)
        network(features)
        for norm in norms:
            norm.weight.copy_((1.5 if network.spiking else 0.2) + 0.5 * torch.rand_like(norm.weight))
            norm.bias.copy_(0.2 * torch.randn_like(norm.bias))
        network.eval()
        for unit in network.units:
            _wake(unit, network, features)
        return network.to(torch.float64 if double else torch.float32)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make
    torch.set_num_threads(threads)


def _wake(unit: Any, network: LMUFormer, features: Any) -> None:
    """Let the unit's signal be 0 for a part of the time."""
    seen: dict[str, Any] = {}
    hooks = [
        unit.signal.register_forward_hook(lambda _, __, out: seen.update(before=out)),
        unit.memory.register_forward_hook(lambda _, inputs, __: seen.update(signal=inputs[0])),
    ]
    network(features)
    if network.spiking:
        norm = unit.signal_norm
        norm.running_mean.copy_(seen["before"].mean())
        norm.running_var.copy_(seen["before"].var())
        norm.weight.fill_(2.0)
        norm.bias.fill_(0.5)
    else:
        unit.signal.bias -= seen["before"].median()
    network(features)
    for hook in hooks:
        hook.remove()
    assert 0.02 < float((seen["signal"] != 0).double().mean()) < 0.98, "another seed is needed"
