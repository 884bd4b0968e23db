"""The neuron: its equations, and the gradient that is made up for it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from edgedeploy.models.lif import LIF


class Step(torch.autograd.Function):
    """1 where the charge is there; backward, a sigmoid of slope 4."""

    @staticmethod
    def forward(ctx: Any, beyond: Tensor) -> Tensor:
        ctx.save_for_backward(beyond)
        return (beyond >= 0).to(beyond.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (beyond,) = ctx.saved_tensors
        soft = torch.sigmoid(4 * beyond)
        return gradient * 4 * soft * (1 - soft)


def plain(x: Tensor, threshold: float) -> Tensor:
    """The equations one by one, as a loop that autograd follows."""
    v, spikes = torch.zeros_like(x[..., 0]), []
    for now in x.unbind(-1):
        h = v + (now - v) / 2
        s = Step.apply(h - threshold)  # type: ignore[no-untyped-call]
        v = (1 - s.detach()) * h
        spikes.append(s)
    return torch.stack(spikes, dim=-1)


@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 1, 9), (3, 2, 1)])
def test_the_scan_is_the_loop_forward_and_backward(shape: tuple[int, ...], threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).mul_(2).requires_grad_()
    before, weights = x.detach().clone(), torch.randn(shape, generator=generator, dtype=torch.float64)
    gradients, spikes = [], []
    for neuron in (LIF(threshold), lambda signal: plain(signal, threshold)):
        spikes.append(neuron(x))
        (gradient,) = torch.autograd.grad((spikes[-1] * weights).sum(), x)
        gradients.append(gradient)
    assert torch.equal(spikes[0], spikes[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before), "the input belongs to somebody else"
    assert x.numel() < 100 or 0.05 < float(spikes[0].detach().mean()) < 0.95


def test_snntorch_agrees() -> None:
    """Its neuron adds its input whole, so it is given half of it."""
    snntorch = pytest.importorskip("snntorch")
    from snntorch import surrogate

    x = (2 * torch.randn(4, 8, 50, generator=torch.Generator().manual_seed(1))).requires_grad_()
    theirs = snntorch.Leaky(beta=0.5, reset_mechanism="zero", spike_grad=surrogate.sigmoid(slope=4))
    membrane, spikes = theirs.reset_mem(), []
    for now in x.unbind(-1):
        spike, membrane = theirs(now * 0.5, membrane)
        spikes.append(spike)
    expected, found = torch.stack(spikes, dim=-1), LIF()(x)
    assert torch.equal(found, expected)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (ours,), (reference,) = (torch.autograd.grad((s * weights).sum(), x) for s in (found, expected))
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_a_constant_input_of_one_never_fires_but_by_rounding() -> None:
    """Its charge is 1 - 2^-n, which float32 rounds to 1 at the 25th step, and float64 not in fifty."""
    assert float(LIF()(torch.ones(1, 1, 50, dtype=torch.float64)).sum()) == 0
    first = int(LIF()(torch.ones(1, 1, 50))[0, 0].argmax())
    assert 23 <= first <= 26


def test_firing_is_at_the_threshold_and_forgets() -> None:
    x = torch.tensor([[[2.0, 1.0, 1.5, 4.0]]])
    assert LIF()(x).tolist() == [[[1.0, 0.0, 1.0, 1.0]]], "charges 1, 0.5, 1, 2: the reset after a spike is to 0"


def test_a_program_holds_the_neurons_as_one_loop() -> None:
    network = torch.nn.Sequential(LIF(0.5), LIF()).eval()
    x = 3 * torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        assert torch.equal(program.module()(x), network(x))
    assert len(program.graph.nodes) < 30
