"""Multiply-adds, spikes and energy of LMUFormer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from edgedeploy.errors import UsageError
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.spike_cost import SpikeCost, spike_cost

Make = Callable[..., LMUFormer]
TINY: dict[str, Any] = {"bins": 12, "dim": 8, "memory": 6, "theta": 16}


@pytest.mark.parametrize(
    ("spiking", "linear", "all_macs", "frame"),
    [(False, 17_956_864, 215_121_920, 1_671_680), (True, 26_345_472, 248_709_120, 1_934_080)],
)
def test_counts_of_the_published_networks(spiking: bool, linear: int, all_macs: int, frame: int) -> None:
    torch.manual_seed(0)
    network = LMUFormer(35, spiking=spiking).train()
    cost = spike_cost(network, torch.randn(1, 128, 128))
    assert network.training
    assert cost.convolution_macs == 188_743_680
    assert cost.linear_macs == linear
    assert cost.macs == all_macs
    assert (network.options["memory"] ** 2 + network.options["memory"]) * 128 == cost.recurrence_macs
    assert cost.macs // 128 - 35 * 256 == frame, "of one frame, without the head"
    assert cost.windows[0].macs == network.options["memory"] * 128 * 129 // 2
    if not spiking:
        assert cost.synaptic == 0
        assert cost.layer_energy == pytest.approx(4.6e-12 * 206_700_544)


@pytest.fixture(scope="module")
def spikes(lively: Make) -> tuple[LMUFormer, torch.Tensor, SpikeCost]:
    network = lively(3, spiking=True, **TINY)
    features = torch.randn(6, 30, 12)
    return network, features, spike_cost(network, features)


def test_rates_are_those_of_the_spikes(spikes: tuple[LMUFormer, torch.Tensor, SpikeCost]) -> None:
    network, features, cost = spikes
    layers = {layer.name: layer for layer in cost.layers}
    assert layers["embedding.convolutions.0"].rate is None
    assert cost.real_macs == layers["embedding.convolutions.0"].macs == 30 * 8 * 12 * 3
    assert layers["head"].rate == pytest.approx(float(network.traits(features).mean()))
    assert all(layer.rate is not None and 0 < layer.rate < 1 for layer in cost.layers[1:])
    assert cost.clips == 6
    assert cost.frames == 30


def test_energy_is_that_of_additions_for_spikes(spikes: tuple[LMUFormer, torch.Tensor, SpikeCost]) -> None:
    _, _, cost = spikes
    layers = 4.6e-12 * cost.real_macs + 0.9e-12 * sum((layer.rate or 0) * layer.macs for layer in cost.layers[1:])
    assert cost.layer_energy == pytest.approx(layers)
    assert cost.energy("recurrence") == pytest.approx(layers + 4.6e-12 * (6 * 6 + 6) * 30)
    signal = cost.windows[0].rate
    assert signal is not None
    assert 0 < signal < 1
    assert cost.energy("window") == pytest.approx(layers + 0.9e-12 * signal * 6 * 30 * 31 / 2)


@pytest.mark.parametrize("shape", [(30, 12), (0, 30, 12), (2, 30, 13)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...], lively: Make) -> None:
    with pytest.raises(UsageError, match=r"Features are \(clips, frames, 12\) here"):
        spike_cost(lively(3, **TINY), torch.zeros(shape))
