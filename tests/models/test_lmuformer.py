"""LMUFormer on whole clips: its size, any length, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from edgedeploy.errors import UsageError
from edgedeploy.models.lmuformer import LMUFormer

Make = Callable[..., LMUFormer]
TINY: dict[str, Any] = {"bins": 12, "dim": 8, "memory": 6, "theta": 16}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("spiking", "parameters"), [(False, 1_621_796), (True, 1_689_894)])
def test_parameters_are_those_of_the_paper(spiking: bool, parameters: int) -> None:
    network = LMUFormer(35, spiking=spiking)
    assert count(network) == parameters
    assert count(LMUFormer(35, spiking=spiking, causal=True)) == parameters
    assert LMUFormer(**network.options).options == network.options
    stored = sum(tensor.numel() for tensor in network.state_dict().values())
    norms = sum(2 * n.num_features + 1 for n in network.modules() if isinstance(n, nn.BatchNorm1d))
    assert stored == parameters + norms, "the constants of the memory are not stored"


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = LMUFormer(35)
    for layer in (network.head, network.units[0].signal, network.units[0].hidden):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.15)  # type: ignore[union-attr, operator]
        assert not layer.bias.any()  # type: ignore[union-attr, operator]
    assert float(network.embedding.position.weight.detach().abs().max()) == pytest.approx((256 * 3) ** -0.5, rel=0.01)


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_prefixes_end_in_the_whole(spiking: bool, depth: int, lively: Make) -> None:
    network = lively(3, spiking=spiking, depth=depth, double=True, **TINY)
    for frames in (1, 2, 7, 60):
        features = torch.randn(2, frames, 12, dtype=torch.float64)
        prefixes = network.prefixes(features)
        assert prefixes.shape == (2, frames, 3)
        torch.testing.assert_close(prefixes[:, -1], network(features), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spiking", [False, True])
def test_a_causal_network_knows_of_a_prefix_all_there_is(spiking: bool, lively: Make) -> None:
    network = lively(3, spiking=spiking, causal=True, double=True, **TINY)
    features = torch.randn(1, 30, 12, dtype=torch.float64)
    prefixes = network.prefixes(features)
    for frames in range(1, 31):
        torch.testing.assert_close(prefixes[:, frames - 1], network(features[:, :frames]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("causal", "lookahead"), [(False, 5), (True, 0)])
@pytest.mark.parametrize("spiking", [False, True])
def test_how_far_a_feature_looks_ahead(spiking: bool, causal: bool, lookahead: int, lively: Make) -> None:
    network = lively(3, spiking=spiking, causal=causal, double=True, **TINY)
    assert network.lookahead == lookahead
    features = torch.randn(32, 30, 12, dtype=torch.float64)  # many, because a spike often stays what it is
    for t in (0, 11):
        near, far = features.clone(), features.clone()
        near[:, t + lookahead] += 10.0
        far[:, t + lookahead + 1 :] += 10.0
        before = network.traits(features)[:, : t + 1]
        assert not torch.equal(network.traits(near)[:, t], before[:, t])
        assert torch.equal(network.traits(far)[:, : t + 1], before)


@pytest.mark.parametrize("spiking", [False, True])
def test_every_weight_learns(spiking: bool) -> None:
    torch.manual_seed(0)
    network = LMUFormer(3, spiking=spiking, **TINY)
    loss = nn.functional.cross_entropy(network(torch.randn(8, 40, 12)), torch.arange(8) % 3)
    torch.autograd.backward([loss])
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias in front of a norm is taken out again by it
    assert {name.rpartition(".")[2] for name in still} <= {"bias"}


def test_the_form_of_the_memory_is_a_choice(lively: Make) -> None:
    network = lively(3, double=True, **TINY)
    features = torch.randn(1, 40, 12, dtype=torch.float64)
    logits = network(features)
    for form in ("fft", "recurrence", "fir"):
        network.memory_form = form
        assert network.memory_form == form
        torch.testing.assert_close(network(features), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 0}, "'classes' has to be a whole number from 1 to 4096, found 0"),
        ({"dim": -8}, "'dim'"),
        ({"memory": 10**9}, "'memory'"),
        ({"theta": 2.5}, "'theta'"),
        ({"depth": True}, "'depth'"),
        ({"bins": "128"}, "'bins'"),
        ({"spiking": 1}, "'spiking' has to be true or false, found 1"),
        ({"causal": None}, "'causal'"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        LMUFormer(**{"classes": 3, **TINY, **options})
