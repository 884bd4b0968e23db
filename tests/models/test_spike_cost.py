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


def test_energy_of_the_window_counts_a_spike_as_often_as_it_is_added(
    spikes: tuple[LMUFormer, torch.Tensor, SpikeCost],
) -> None:
    network, features, cost = spikes
    signals: list[torch.Tensor] = []
    handle = network.units[0].memory.register_forward_hook(lambda _, inputs, out: signals.append(inputs[0][:, 0]))  # type: ignore[union-attr]
    network.traits(features)
    handle.remove()
    taps = network.units[0].memory.response.shape[1]  # type: ignore[union-attr, index]
    additions = [6 * sum(float(signal[max(0, t + 1 - taps) : t + 1].sum()) for t in range(30)) for signal in signals[0]]
    assert sum(additions) > 0
    mean = sum(additions) / len(additions)
    assert cost.energy("window") - cost.layer_energy == pytest.approx(0.9e-12 * mean)


@pytest.mark.parametrize("shape", [(30, 12), (0, 30, 12), (2, 30, 13)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...], lively: Make) -> None:
    with pytest.raises(UsageError, match=r"Features are \(clips, frames, 12\) here"):
        spike_cost(lively(3, **TINY), torch.zeros(shape))
