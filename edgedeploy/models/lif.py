"""The leaky integrate-and-fire neuron of the spiking LMUFormer, over a whole sequence at once and step by step.

For an input x at step t, with the membrane v at 0 before the first::

    h[t] = (v[t-1] + x[t]) / 2                time constant 2, the input decays with the membrane
    s[t] = 1 where h[t] >= threshold, else 0
    v[t] = (1 - s[t]) h[t]                    reset to 0

Backward, ds/dh is that of sigmoid(4 (h - threshold)), and the reset passes no gradient.

Why no library: both kept ones fall short of it. snnTorch's ``Leaky`` fires above the threshold and not at it, keeps
every neuron ever built in a list of its class, and puts several autograd nodes on the tape for each step, which is most
of a training step's time on a CPU; SpikingJelly has this neuron, its fast form only on CUDA. The tests hold this one
against snnTorch, which agrees wherever no membrane stands exactly at the threshold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Slope of the surrogate of the step's derivative.
SLOPE = 4.0


class LIF(nn.Module):
    """Neurons that see the last axis as time: float (batch, channels, steps) to spikes, 0 or 1, of the same shape."""

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return _looped(x, self.threshold)
        spikes: Tensor = _Scan.apply(x, self.threshold)  # type: ignore[no-untyped-call]
        return spikes

    def step(self, x: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and the new membrane after one step; all of one shape."""
        charged = (membrane + x) * 0.5
        spikes = (charged >= self.threshold).to(x.dtype)
        return spikes, charged * (1.0 - spikes)

    def extra_repr(self) -> str:
        """For printing the network."""
        return f"threshold={self.threshold}"


def _looped(x: Tensor, threshold: float) -> Tensor:
    """The neurons as a program holds them: one loop, because unrolled it is thousands of nodes."""
    from torch._higher_order_ops.scan import scan  # has no public name yet, and brings in much of torch

    def advance(left: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        charged = left + half
        return torch.where(charged < threshold, charged * 0.5, 0.0), charged

    halves = x.movedim(-1, 0) * 0.5
    _, charged = scan(advance, torch.zeros_like(halves[0]), halves)
    spikes: Tensor = (charged >= threshold).to(x.dtype)
    return spikes.movedim(0, -1)


class _Scan(torch.autograd.Function):
    """The neurons over the last axis as one node on the tape, with a backward pass written out.

    Inside it is (steps, neurons), so that a step is one piece of memory; two axes are the fastest to turn.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: float) -> Tensor:
        charged = x.flatten(0, -2).t().contiguous() * 0.5
        membrane, limit = torch.zeros_like(charged[0]), charged.new_tensor(threshold)
        nothing, silent = torch.zeros_like(membrane), torch.empty_like(membrane, dtype=torch.bool)
        for now in charged.unbind(0):
            now.add_(membrane, alpha=0.5)  # halving is exact, so this is (v + x) / 2 to the bit
            torch.lt(now, limit, out=silent)
            torch.where(silent, now, nothing, out=membrane)
        ctx.save_for_backward(charged)
        ctx.threshold = threshold
        return (charged >= threshold).to(x.dtype).t().contiguous().view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """With dv[t]/dh[t] = 1 - s[t] and dh[t+1]/dv[t] = 1/2, from the last step to the first."""
        (charged,) = ctx.saved_tensors
        soft = torch.sigmoid_((charged - ctx.threshold).mul_(SLOPE))
        total = gradient.flatten(0, -2).t().contiguous() * soft.mul_(1 - soft).mul_(SLOPE)
        passed = (charged < ctx.threshold).to(total.dtype).mul_(0.5)
        steps, passes = total.unbind(0), passed.unbind(0)
        for t in range(len(steps) - 2, -1, -1):
            steps[t].addcmul_(passes[t], steps[t + 1])
        return total.mul_(0.5).t().contiguous().view(gradient.shape), None
