"""The penalty acts as written: after unscaling and clipping, once per step, on the given factors alone."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from edgedeploy.compress.recipe import Slimming
from edgedeploy.compress.training.slimming import CLIP, Penalty, prunable, rate_at, scales, small_shares, take_step
from edgedeploy.errors import UsageError

RATE = 0.25
#: What mixed precision starts with.
SCALE = 65536.0


def test_the_rate_falls_in_a_line_to_its_floor() -> None:
    rates = [rate_at(Slimming(rate=1e-3, floor=0.1), epoch, 10) for epoch in range(11)]
    assert rates == pytest.approx([1e-3 * (1 - 0.9 * e / 10) for e in range(11)])
    assert rates[0] == 1e-3
    assert rates[10] == pytest.approx(1e-4)


def small() -> Any:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    network: Any = nn.Sequential(*layers)
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([0.5, -0.5, 0.0, 2.0]))
        network[3].weight.copy_(torch.tensor([0.5, -0.5, 0.0, 2.0]))
    return network


def one_step(slimming: Slimming | None, scale: float | None, gain: float = 1.0, lr: float = 1.0) -> tuple[Any, bool]:
    """A network after one step of plain SGD on ``gain`` times a fixed loss, and whether it was taken."""
    network = small()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    penalty = Penalty(slimming, scales(network, ["1"])) if slimming else None
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    scaler.scale(gain * network(images).square().mean()).backward()
    taken = take_step(network, optimizer, scaler, penalty, RATE)
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    return network, taken


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("gain", [1.0, 1e4], ids=["unclipped", "clipped"])
def test_subgradient_is_neither_scaled_nor_clipped(scale: float | None, gain: float) -> None:
    plain, _ = one_step(None, scale, gain)
    slim, taken = one_step(Slimming(), scale, gain)
    assert taken
    # The whole difference is the penalty: rate * sign(gamma) with sign(0) = 0, at a learning rate of 1.
    torch.testing.assert_close(plain[1].weight - slim[1].weight, RATE * small()[1].weight.sign())
    for name in ("0.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"):
        torch.testing.assert_close(slim.get_parameter(name), plain.get_parameter(name), rtol=0, atol=0)


def test_gradients_are_clipped_to_the_norm_that_is_named() -> None:
    network, _ = one_step(None, SCALE, gain=1e4)
    moved = [
        (new - old).detach().flatten() for new, old in zip(network.parameters(), small().parameters(), strict=True)
    ]
    assert torch.cat(moved).norm() == pytest.approx(CLIP, rel=1e-4)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_proximal_step_gives_exact_zeros(scale: float | None) -> None:
    lr = 4.0  # lr * rate is 1: all factors but the last are shrunk to nothing unless the loss has moved them far
    plain, _ = one_step(None, scale, gain=1e-3, lr=lr)
    slim, taken = one_step(Slimming(method="proximal"), scale, gain=1e-3, lr=lr)
    assert taken
    before = plain[1].weight.detach()
    torch.testing.assert_close(slim[1].weight.detach(), before.sign() * (before.abs() - lr * RATE).clamp(min=0))
    assert (slim[1].weight == 0).tolist() == [True, True, True, False]
    torch.testing.assert_close(slim[3].weight, plain[3].weight, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["subgradient", "proximal"])
def test_a_step_that_the_scaler_leaves_out_is_no_step(method: Any) -> None:
    network, taken = one_step(Slimming(method=method), SCALE, gain=1e38)
    assert not taken
    for new, old in zip(network.parameters(), small().parameters(), strict=True):
        assert torch.equal(new, old)


def test_each_factor_is_shrunk_by_its_own_learning_rate() -> None:
    network = small()
    groups = [{"params": [network[1].weight], "lr": 0.4}, {"params": [network[3].weight], "lr": 0.8}]
    penalty = Penalty(Slimming(method="proximal"), scales(network, ["1", "3"]))
    penalty.shrink(0.5, torch.optim.SGD(groups))
    torch.testing.assert_close(network[1].weight.detach(), torch.tensor([0.3, -0.3, 0.0, 1.8]))
    torch.testing.assert_close(network[3].weight.detach(), torch.tensor([0.1, -0.1, 0.0, 1.6]))


def test_a_factor_without_a_gradient_gets_the_penalty_alone() -> None:
    network = small()
    Penalty(Slimming(), scales(network, ["1"])).add(0.5)
    assert network[1].weight.grad.tolist() == [0.5, -0.5, 0.0, 0.5]


@pytest.mark.parametrize("method", ["subgradient", "proximal"])
def test_a_frozen_factor_stays(method: Any) -> None:
    """The optimiser holds it too, as Ultralytics makes it."""
    network = small()
    network[1].weight.requires_grad_(False)
    penalty = Penalty(Slimming(method=method), scales(network, ["1", "3"]))
    network(torch.rand(2, 3, 4, 4)).sum().backward()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    take_step(network, optimizer, torch.amp.GradScaler("cuda", enabled=False), penalty, 1.0)
    assert torch.equal(network[1].weight, small()[1].weight)
    assert not torch.equal(network[3].weight, small()[3].weight)


def test_small_shares_count_magnitudes() -> None:
    assert small_shares({"a": torch.tensor([0.005, -0.005, 0.01, -1.0])}, 0.01) == {"a": 0.5}


def test_only_normalisations_have_scale_factors() -> None:
    for name in ("0", "9"):
        with pytest.raises(UsageError, match=f"^{name} is no batch normalisation"):
            scales(small(), [name])


def test_the_penalised_are_those_that_pruning_may_touch() -> None:
    pytest.importorskip("ultralytics")
    pytest.importorskip("torch_pruning")
    from edgedeploy.models.yolo import quietly

    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    network = DetectionModel("yolov8n.yaml", nc=4, verbose=False)
    before = deepcopy(network.state_dict())
    names = prunable(network)
    assert list(scales(network, names)) == list(names)
    outside = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and not n.startswith("model.22.")]
    assert list(names) == outside
    spared = set(names) - set(prunable(network, ("detect", "residual", "inner")))
    assert spared == {n for n in names if re.fullmatch(r"model\.[2468]\.(cv1|m\.\d\.cv[12])\.bn", n)}
    assert any(n.startswith("model.22.") for n in prunable(network, ()))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
