"""LMUFormer, a keyword network that is trained on whole clips and runs frame by frame (Liu et al., ICLR 2024).

Frames of features go through four convolutions over time, a convolution for their position, then blocks of a Legendre
memory unit and a channel mixer; the head reads the mean over the frames. In the spiking form every layer but the first
convolution reads spikes of neurons for which a frame is a step, and shortcuts stay real (membrane shortcut).

Where the paper's figures and its authors' code differ, this follows the code: the memory is linear and never reset, and
only what is read of it spikes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedeploy.errors import UsageError
from edgedeploy.models.lif import LIF
from edgedeploy.models.lmu import Form, Memory

#: Convolutions of width 3 one after the other: each looks one frame ahead where it is symmetric.
CONVOLUTIONS = 5
#: A constructor's number beyond this is a mistake, or a file that means harm.
_LARGEST = 4096


class Convolution(nn.Conv1d):
    """Width 3 over the last axis, which keeps its length: one frame of zeros at each end, or two in front."""

    def __init__(self, inputs: int, outputs: int, causal: bool) -> None:
        super().__init__(inputs, outputs, 3, bias=False)
        self.margin = (2, 0) if causal else (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.margin))


class Embedding(nn.Module):
    """Features (batch, bins, frames) to (batch, dim, frames); looks five frames ahead, or none where causal."""

    def __init__(self, bins: int, dim: int, causal: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Convolution(bins if i == 0 else dim, dim, causal) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(4))
        self.position = Convolution(dim, dim, causal)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(torch.relu(convolution(x)))
        moved: Tensor = self.position(x)
        return x + moved


class SpikingEmbedding(Embedding):
    """The same with spikes between the convolutions; the last norm stands before the position's neurons."""

    def __init__(self, bins: int, dim: int, causal: bool) -> None:
        super().__init__(bins, dim, causal)
        self.neurons = nn.ModuleList(LIF() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = self.neurons[i](self.norms[i](self.convolutions[i](x)))
        x = self.convolutions[3](x)
        moved: Tensor = self.position(self.neurons[3](self.norms[3](x)))
        return x + moved


class Unit(nn.Module):
    """A Legendre memory unit beside a shortcut, (batch, dim, frames) to the same: what it remembers of one signal."""

    def __init__(self, dim: int, memory: int, theta: int) -> None:
        super().__init__()
        self.signal = nn.Linear(dim, 1)
        self.memory = Memory(memory, theta)
        self.hidden = nn.Linear(memory + dim, dim)
        self.projection = nn.Conv1d(dim, dim, 1)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        signal = torch.relu(_across(self.signal, x))
        hidden = torch.relu(_across(self.hidden, torch.cat([self.memory(signal), x], dim=1)))
        out: Tensor = self.norm(self.projection(hidden))
        return x + out


class SpikingUnit(Unit):
    """The same of spikes; the memory itself is real."""

    def __init__(self, dim: int, memory: int, theta: int) -> None:
        super().__init__(dim, memory, theta)
        self.entry_norm, self.entry = nn.BatchNorm1d(dim), LIF(threshold=0.5)
        self.signal_norm, self.signal_neuron = nn.BatchNorm1d(1), LIF()
        self.memory_norm, self.memory_neurons = nn.BatchNorm1d(memory), LIF()
        self.hidden_norm, self.hidden_neurons = nn.BatchNorm1d(dim), LIF()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.entry(self.entry_norm(x))
        signal = self.signal_neuron(self.signal_norm(_across(self.signal, spikes)))
        remembered = self.memory_neurons(self.memory_norm(self.memory(signal)))
        hidden = self.hidden_norm(_across(self.hidden, torch.cat([remembered, spikes], dim=1)))
        out: Tensor = self.norm(self.projection(self.hidden_neurons(hidden)))
        return x + out


class Mixer(nn.Module):
    """Channels of each frame mixed beside a shortcut, (batch, dim, frames) to the same, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.widen, self.widen_norm = nn.Conv1d(dim, 4 * dim, 1), nn.BatchNorm1d(4 * dim)
        self.narrow, self.narrow_norm = nn.Conv1d(4 * dim, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.gelu(self.widen_norm(self.widen(x)))
        return x + torch.relu(self.narrow_norm(self.narrow(wide)))


class SpikingMixer(nn.Module):
    """The same of spikes: norms and neurons stand before the layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.entry_norm, self.entry = nn.BatchNorm1d(dim), LIF()
        self.widen, self.widen_norm, self.neurons = nn.Conv1d(dim, 4 * dim, 1), nn.BatchNorm1d(4 * dim), LIF()
        self.narrow = nn.Conv1d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.neurons(self.widen_norm(self.widen(self.entry(self.entry_norm(x)))))
        narrow: Tensor = self.narrow(wide)
        return x + narrow


class LMUFormer(nn.Module):
    """Normalised features float (batch, frames, bins) to logits (batch, classes); any number of frames.

    Args:
        classes: words.
        bins: features of a frame.
        dim: channels.
        memory: coefficients of the Legendre memory; 256, or 512 where spiking, if ``None``.
        theta: frames that the memory's window is long.
        depth: blocks of a memory unit and a mixer.
        spiking: neurons in place of ReLU and GELU.
        causal: convolutions look back only.
        frames: that a clip has; nothing in the network depends on it.

    Raises:
        UsageError: a number below 1, or beyond what such a network has.
    """

    def __init__(
        self,
        classes: int,
        bins: int = 128,
        dim: int = 256,
        memory: int | None = None,
        theta: int = 128,
        depth: int = 1,
        spiking: bool = False,
        causal: bool = False,
        frames: int = 128,
    ) -> None:
        super().__init__()
        memory = (512 if spiking else 256) if memory is None else memory
        self.options: dict[str, Any] = {
            **_counted(classes=classes, bins=bins, dim=dim, memory=memory, theta=theta, depth=depth, frames=frames),
            **_switched(spiking=spiking, causal=causal),
        }
        self.classes, self.bins, self.dim, self.frames = classes, bins, dim, frames
        self.spiking, self.causal = spiking, causal
        self.embedding = (SpikingEmbedding if spiking else Embedding)(bins, dim, causal)
        unit, mixer = (SpikingUnit, SpikingMixer) if spiking else (Unit, Mixer)
        self.units = nn.ModuleList(unit(dim, memory, theta) for _ in range(depth))
        self.mixers = nn.ModuleList(mixer(dim) for _ in range(depth))
        if spiking:
            self.norm, self.neurons = nn.BatchNorm1d(dim), LIF()
        self.head = nn.Linear(dim, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def lookahead(self) -> int:
        """Frames beyond the one that it is about that a feature depends on."""
        return 0 if self.causal else CONVOLUTIONS

    @property
    def memory_form(self) -> Form:
        """How the memory of a whole clip is computed; see `edgedeploy.models.lmu.Memory`."""
        form: Form = self.units[0].memory.form  # type: ignore[assignment, union-attr]
        return form

    @memory_form.setter
    def memory_form(self, form: Form) -> None:
        for layer in self.modules():
            if isinstance(layer, Memory):
                layer.form = form

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.traits(features).mean(dim=1))
        return logits

    def prefixes(self, features: Tensor) -> Tensor:
        """Logits (batch, frames, classes) of the mean over the first 1, 2, ... frames of what the head reads.

        Each of those frames has looked `lookahead` frames ahead, so the first t of them need t + `lookahead` frames.
        """
        traits = self.traits(features)
        counts = torch.arange(1, traits.shape[1] + 1, device=traits.device, dtype=traits.dtype)
        logits: Tensor = self.head(traits.cumsum(dim=1) / counts[:, None])
        return logits

    def traits(self, features: Tensor) -> Tensor:
        """What the head reads, before the mean: (batch, frames, dim)."""
        x = self.embedding(features.transpose(1, 2))
        for unit, mixer in zip(self.units, self.mixers, strict=True):
            x = mixer(unit(x))
        if self.spiking:
            x = self.neurons(self.norm(x))
        traits: Tensor = x.transpose(1, 2)
        return traits


def _across(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer at each step of (batch, channels, steps)."""
    out: Tensor = layer(x.transpose(1, 2))
    return out.transpose(1, 2)


def _counted(**numbers: int) -> dict[str, int]:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _LARGEST:
            raise UsageError(f"LMUFormer: '{name}' has to be a whole number from 1 to {_LARGEST}, found {number!r}.")
    return numbers


def _switched(**switches: bool) -> dict[str, bool]:
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise UsageError(f"LMUFormer: '{name}' has to be true or false, found {switch!r}.")
    return switches
