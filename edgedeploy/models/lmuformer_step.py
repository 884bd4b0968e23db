"""LMUFormer one frame at a time: the graph `STREAM`, equal to the network on the whole clip at every prefix.

A symmetric convolution gives the output of a frame when the next one has come, so the five of them run five frames
behind, and at the end of a stream each has to see the zeros that the whole clip is padded with: at its own input, which
is not what frames of zeros would lead to there. One rule covers the start, the end and what lies between: *what has not
come yet, or comes after the end, is zero at every layer's own input, and moves no state*. State starts at zero, so
multiplying by 0 or 1 keeps the rule exactly, and the graph has no branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedeploy.errors import UsageError
from edgedeploy.models.lif import LIF
from edgedeploy.models.lmu import Recurrence
from edgedeploy.models.lmuformer import (
    Embedding,
    LMUFormer,
    Mixer,
    SpikingEmbedding,
    SpikingMixer,
    SpikingUnit,
    Unit,
)
from edgedeploy.tensors import Signature, StateSpec, TensorSpec


@dataclass(frozen=True)
class _Carry:
    """The state before a step, by name, and as much of the state after it as is known."""

    old: Mapping[str, Tensor]
    new: dict[str, Tensor] = field(default_factory=dict)

    def fire(self, name: str, neurons: LIF, x: Tensor, live: Tensor) -> Tensor:
        """Spikes; the membranes stay at zero where the input is none."""
        spikes, membrane = neurons.step(x, self.old[name])
        self.new[name] = membrane * live
        return spikes


class Step(nn.Module):
    """``frame`` (1, bins), ``end`` (1, 1) and the state to ``logits`` (1, classes), ``heard`` (1, 1) and the new state.

    ``end`` is 0 while frames come, and 1 for ``lookahead`` more steps, whose ``frame`` has to be finite and does not
    count. The logits are those of all frames that have gone through; ``heard`` is how many, 0 before the first.

    Batch normalisation is that of inference and folded into the layer before it where that is exact. Made of a network
    in float64, it computes in float64.

    Args:
        network: its weights are copied.
        horizon: frames after which the mean that the head reads forgets: later ones go in with the weight 1/horizon,
            for streams without an end. It never forgets if ``None``.

    Raises:
        UsageError: a horizon below 1.
    """

    def __init__(self, network: LMUFormer, horizon: int | None = None) -> None:
        super().__init__()
        if horizon is not None and horizon < 1:
            raise UsageError(f"The horizon of the mean has to be at least 1 frame, found {horizon}.")
        self.bins, self.classes, self.dim = network.bins, network.classes, network.dim
        self.lookahead, self.horizon = network.lookahead, horizon
        delay = 0 if network.causal else 1
        self.embedding = _embedding(network.embedding, delay)
        pairs = list(enumerate(zip(network.units, network.mixers, strict=True)))
        self.units = nn.ModuleList(_unit(cast(Unit, unit), f"unit{i}") for i, (unit, _) in pairs)
        self.mixers = nn.ModuleList(_mixer(mixer, f"mixer{i}") for i, (_, mixer) in pairs)
        self.spiking = network.spiking
        if self.spiking:
            self.norm, self.neurons = _Scale(network.norm), network.neurons
        self.head = _linear(network.head)
        self.widths = self._widths()

    @property
    def signature(self) -> Signature:
        """What goes in and out; the state is float32 (1, n) each, the counters ``seen`` and ``ended`` last."""
        return Signature(
            inputs=(TensorSpec("frame", "float32", (1, self.bins)), TensorSpec("end", "float32", (1, 1))),
            outputs=(TensorSpec("logits", "float32", (1, self.classes)), TensorSpec("heard", "float32", (1, 1))),
            state=tuple(StateSpec(n, f"{n}_next", "float32", (1, width)) for n, width in self.widths.items()),
        )

    def start(self) -> tuple[Tensor, ...]:
        """The state before the first step: zeros in the dtype of the network."""
        like = self.head.weight
        return tuple(like.new_zeros(1, width) for width in self.widths.values())

    def forward(self, frame: Tensor, end: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        carry = _Carry(dict(zip(self.widths, state, strict=True)))
        seen, ended = carry.old["seen"], carry.old["ended"] + end

        def live(delay: int) -> Tensor:
            """1 where what is ``delay`` frames behind has come and is not over, else 0; the counters are whole."""
            return torch.clamp(seen - (delay - 1), 0.0, 1.0) * torch.clamp((delay + 1) - ended, 0.0, 1.0)

        through = live(self.lookahead)
        x = self.embedding(frame, live, carry)
        for unit, mixer in zip(self.units, self.mixers, strict=True):
            x = mixer(unit(x, through, carry), through, carry)
        if self.spiking:
            x = carry.fire("head", self.neurons, self.norm(x), through)
        count = seen + torch.clamp((self.lookahead + 1) - ended, 0.0, 1.0)
        heard = torch.clamp(count - self.lookahead, min=0.0)
        share = through / torch.clamp(heard, 1.0, None if self.horizon is None else float(self.horizon))
        mean = carry.old["mean"] + (x - carry.old["mean"]) * share
        carry.new.update(mean=mean, seen=count, ended=ended)
        return self.head(mean), heard, *(carry.new[name] for name in self.widths)

    def _widths(self) -> dict[str, int]:
        """Floats of each tensor of the state, in the order in which they go in and out."""
        found: dict[str, int] = {}
        for part in (self.embedding, *(p for pair in zip(self.units, self.mixers, strict=True) for p in pair)):
            found.update(part.widths)  # type: ignore[arg-type]
        if self.spiking:
            found["head"] = self.dim
        return {**found, "mean": self.dim, "seen": 1, "ended": 1}


class _Scale(nn.Module):
    """Batch normalisation of inference: a factor and an offset for each channel."""

    factor: Tensor
    offset: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        factor, offset = _affine(norm)
        dtype = cast(nn.BatchNorm1d, norm).weight.dtype
        self.register_buffer("factor", factor.to(dtype))
        self.register_buffer("offset", offset.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


class _Convolution(nn.Module):
    """Width 3 over a stream; of the state ``name``, the two inputs before this one, the older first."""

    def __init__(self, convolution: nn.Module, name: str, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.name, weight = name, cast(nn.Conv1d, convolution).weight
        self.inputs = weight.shape[1]
        self.taps = _linear(convolution, norm, weight.permute(0, 2, 1).flatten(1))
        self.widths = {name: 2 * self.inputs}

    def forward(self, x: Tensor, carry: _Carry) -> Tensor:
        window = torch.cat([carry.old[self.name], x], dim=1)
        carry.new[self.name] = window[:, self.inputs :]
        out: Tensor = self.taps(window)
        return out


class _Embedding(nn.Module):
    """Four convolutions and that of the position; ``delay`` frames behind for each."""

    def __init__(self, embedding: Embedding, delay: int) -> None:
        super().__init__()
        self.delay, self.dim = delay, embedding.position.out_channels
        self.convolutions, self.norms = self._layers(embedding)
        self.position = _Convolution(embedding.position, "position")
        self.widths: dict[str, int] = {}
        for convolution in (*self.convolutions, self.position):
            self.widths.update(convolution.widths)
        if delay:  # the shortcut around the position waits for it
            self.widths["shortcut"] = self.dim

    def _layers(self, embedding: Embedding) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Here the norm is no part of the next convolution: its offset is absent from the zeros around a clip."""
        convolutions = nn.ModuleList(_Convolution(c, f"convolution{i}") for i, c in enumerate(embedding.convolutions))
        return convolutions, nn.ModuleList(_Scale(norm) for norm in embedding.norms)

    def forward(self, x: Tensor, live: Callable[[int], Tensor], carry: _Carry) -> Tensor:
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(torch.relu(convolution(x * live(i * self.delay), carry)))
        x = x * live(4 * self.delay)
        moved: Tensor = self.position(x, carry)
        return self._shortcut(x, carry) + moved

    def _shortcut(self, x: Tensor, carry: _Carry) -> Tensor:
        if not self.delay:
            return x
        carry.new["shortcut"] = x
        return carry.old["shortcut"]


class _SpikingEmbedding(_Embedding):
    def __init__(self, embedding: SpikingEmbedding, delay: int) -> None:
        super().__init__(embedding, delay)
        self.neurons = embedding.neurons
        self.widths |= {f"neurons{i}": self.dim for i in range(4)}

    def _layers(self, embedding: Embedding) -> tuple[nn.ModuleList, nn.ModuleList]:
        pairs = zip(embedding.convolutions, (*embedding.norms[:3], None), strict=True)
        convolutions = nn.ModuleList(_Convolution(c, f"convolution{i}", norm) for i, (c, norm) in enumerate(pairs))
        return convolutions, nn.ModuleList([_Scale(embedding.norms[3])])

    def forward(self, x: Tensor, live: Callable[[int], Tensor], carry: _Carry) -> Tensor:
        x = x * live(0)
        for i in range(3):
            now = live((i + 1) * self.delay)
            x = carry.fire(f"neurons{i}", cast(LIF, self.neurons[i]), self.convolutions[i](x, carry), now) * now
        now = live(4 * self.delay)
        x = self.convolutions[3](x, carry) * now
        spikes = carry.fire("neurons3", cast(LIF, self.neurons[3]), self.norms[0](x), now) * now
        moved: Tensor = self.position(spikes, carry)
        return self._shortcut(x, carry) + moved


class _Unit(nn.Module):
    def __init__(self, unit: Unit, name: str) -> None:
        super().__init__()
        self.name = name
        self.memory = Recurrence(unit.memory.order, unit.memory.theta).to(unit.memory.drive)
        self.signal, self.hidden = self._layers(unit)
        self.projection = _linear(unit.projection, unit.norm)
        self.widths = {f"{name}_memory": unit.memory.order}

    def _layers(self, unit: Unit) -> tuple[nn.Linear, nn.Linear]:
        return _linear(unit.signal), _linear(unit.hidden)

    def forward(self, x: Tensor, live: Tensor, carry: _Carry) -> Tensor:
        memory = self._remember(torch.relu(self.signal(x)), live, carry)
        hidden = torch.relu(self.hidden(torch.cat([memory, x], dim=1)))
        out: Tensor = self.projection(hidden)
        return x + out

    def _remember(self, signal: Tensor, live: Tensor, carry: _Carry) -> Tensor:
        memory = self.memory.step(signal, carry.old[f"{self.name}_memory"]) * live
        carry.new[f"{self.name}_memory"] = memory
        return memory


class _SpikingUnit(_Unit):
    def __init__(self, unit: SpikingUnit, name: str) -> None:
        super().__init__(unit, name)
        self.entry_norm, self.memory_norm = _Scale(unit.entry_norm), _Scale(unit.memory_norm)
        self.entry, self.signal_neuron = unit.entry, unit.signal_neuron
        self.memory_neurons, self.hidden_neurons = unit.memory_neurons, unit.hidden_neurons
        dim, order = unit.projection.in_channels, unit.memory.order
        neurons = {"entry": dim, "signal": 1, "remembered": order, "hidden": dim}
        self.widths |= {f"{name}_{part}": width for part, width in neurons.items()}

    def _layers(self, unit: Unit) -> tuple[nn.Linear, nn.Linear]:
        assert isinstance(unit, SpikingUnit)
        return _linear(unit.signal, unit.signal_norm), _linear(unit.hidden, unit.hidden_norm)

    def forward(self, x: Tensor, live: Tensor, carry: _Carry) -> Tensor:
        spikes = carry.fire(f"{self.name}_entry", self.entry, self.entry_norm(x), live)
        signal = carry.fire(f"{self.name}_signal", self.signal_neuron, self.signal(spikes), live)
        memory = self.memory_norm(self._remember(signal, live, carry))
        remembered = carry.fire(f"{self.name}_remembered", self.memory_neurons, memory, live)
        hidden = self.hidden(torch.cat([remembered, spikes], dim=1))
        out: Tensor = self.projection(carry.fire(f"{self.name}_hidden", self.hidden_neurons, hidden, live))
        return x + out


class _Mixer(nn.Module):
    def __init__(self, mixer: Mixer, name: str) -> None:
        super().__init__()
        self.widths: dict[str, int] = {}
        self.widen, self.narrow = _linear(mixer.widen, mixer.widen_norm), _linear(mixer.narrow, mixer.narrow_norm)

    def forward(self, x: Tensor, live: Tensor, carry: _Carry) -> Tensor:
        return x + torch.relu(self.narrow(functional.gelu(self.widen(x))))


class _SpikingMixer(nn.Module):
    def __init__(self, mixer: SpikingMixer, name: str) -> None:
        super().__init__()
        self.name = name
        self.entry_norm, self.entry, self.neurons = _Scale(mixer.entry_norm), mixer.entry, mixer.neurons
        self.widen, self.narrow = _linear(mixer.widen, mixer.widen_norm), _linear(mixer.narrow)
        self.widths = {f"{name}_entry": mixer.widen.in_channels, f"{name}_wide": mixer.widen.out_channels}

    def forward(self, x: Tensor, live: Tensor, carry: _Carry) -> Tensor:
        spikes = carry.fire(f"{self.name}_entry", self.entry, self.entry_norm(x), live)
        wide = carry.fire(f"{self.name}_wide", self.neurons, self.widen(spikes), live)
        out: Tensor = self.narrow(wide)
        return x + out


def _embedding(embedding: Embedding, delay: int) -> _Embedding:
    if isinstance(embedding, SpikingEmbedding):
        return _SpikingEmbedding(embedding, delay)
    return _Embedding(embedding, delay)


def _unit(unit: Unit, name: str) -> _Unit:
    return _SpikingUnit(unit, name) if isinstance(unit, SpikingUnit) else _Unit(unit, name)


def _mixer(mixer: nn.Module, name: str) -> nn.Module:
    return _SpikingMixer(mixer, name) if isinstance(mixer, SpikingMixer) else _Mixer(cast(Mixer, mixer), name)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel, float64: what batch normalisation does in eval mode."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return factor, norm.bias.detach().double() - norm.running_mean.double() * factor


def _linear(layer: nn.Module, norm: nn.Module | None = None, weight: Tensor | None = None) -> nn.Linear:
    """A linear layer or a convolution at one point, with the norm behind it; ``weight`` (outputs, inputs) if given."""
    assert isinstance(layer, nn.Linear | nn.Conv1d)
    kernel = (layer.weight.flatten(1) if weight is None else weight).detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    if norm is not None:
        factor, offset = _affine(norm)
        kernel = kernel * factor[:, None]
        bias = offset if bias is None else bias * factor + offset
    made = nn.Linear(kernel.shape[1], kernel.shape[0], bias is not None, device="meta")
    dtype = layer.weight.dtype
    made.weight = nn.Parameter(kernel.to(dtype, copy=True), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
    return made
