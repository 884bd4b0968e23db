"""What an LMUFormer costs to compute for a clip: multiply-adds of its layers, spikes that reach them, and energy.

Spikes are counted, on features that are given. Energy is a *model* and no measurement: so many picojoules for each
operation of 45 nm logic in float32, 4.6 for a multiply-add and 0.9 for an addition (Horowitz 2014, as papers on spiking
networks use it). A layer that reads spikes adds a weight for each of them; any other multiplies. Counted are
convolutions, linear layers and the memory; not counted are norms, activations, neurons, shortcuts, and every move of
data, which on most hardware costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from edgedeploy.errors import UsageError
from edgedeploy.models.lmu import Memory
from edgedeploy.models.lmuformer import LMUFormer, Unit

#: Joules of an operation in float32.
MULTIPLY_ADD, ADD = 4.6e-12, 0.9e-12


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer, or one memory, for one clip.

    Args:
        name: its path in the network.
        kind: ``recurrence`` is the memory step by step, ``window`` the same as a sum over the past of its signal.
        macs: multiply-adds, zeros at the ends of a clip included.
        rate: share of its inputs that are not 0, for one that reads spikes (of all that it adds up, for a sum over the
            past); ``None`` where inputs are real numbers.
    """

    name: str
    kind: Literal["convolution", "linear", "recurrence", "window"]
    macs: int
    rate: float | None

    @property
    def synaptic(self) -> float:
        """Additions that spikes bring about (synaptic operations); 0 where inputs are real."""
        return 0.0 if self.rate is None else self.rate * self.macs

    @property
    def energy(self) -> float:
        """Joules, by the model."""
        return self.macs * MULTIPLY_ADD if self.rate is None else self.synaptic * ADD


@dataclass(frozen=True)
class SpikeCost:
    """All of a network, for one clip.

    Args:
        layers: convolutions and linear layers, in the order in which they run; the head for every frame.
        recurrences: the memories, step by step; always of real numbers.
        windows: the same memories as sums over the past, of spikes where the network is a spiking one.
        parameters: trained numbers.
        constants: numbers of the recurrences that are not trained, and have to be stored all the same.
        frames: of the clip.
        clips: that rates are the means of.
    """

    layers: tuple[LayerCost, ...]
    recurrences: tuple[LayerCost, ...]
    windows: tuple[LayerCost, ...]
    parameters: int
    constants: int
    frames: int
    clips: int

    @property
    def convolution_macs(self) -> int:
        """Multiply-adds of the convolutions, those over channels only included."""
        return sum(layer.macs for layer in self.layers if layer.kind == "convolution")

    @property
    def linear_macs(self) -> int:
        """Multiply-adds of the linear layers, the head for every frame included."""
        return sum(layer.macs for layer in self.layers if layer.kind == "linear")

    @property
    def recurrence_macs(self) -> int:
        """Multiply-adds of the memories, step by step."""
        return sum(layer.macs for layer in self.recurrences)

    @property
    def macs(self) -> int:
        """All of these."""
        return self.convolution_macs + self.linear_macs + self.recurrence_macs

    @property
    def real_macs(self) -> int:
        """Multiply-adds of the layers that read real numbers; without the memory."""
        return sum(layer.macs for layer in self.layers if layer.rate is None)

    @property
    def synaptic(self) -> float:
        """Synaptic operations of the layers that read spikes; without the memory."""
        return sum(layer.synaptic for layer in self.layers)

    @property
    def layer_energy(self) -> float:
        """Joules of the layers, without the memory."""
        return sum(layer.energy for layer in self.layers)

    def energy(self, memory: Literal["recurrence", "window"]) -> float:
        """Joules of a clip, with the memory in one form or the other."""
        parts = self.recurrences if memory == "recurrence" else self.windows
        return self.layer_energy + sum(part.energy for part in parts)


def spike_cost(network: LMUFormer, features: Tensor) -> SpikeCost:
    """What ``network`` costs for a clip, its spikes counted on normalised ``features`` (clips, frames, bins).

    Raises:
        UsageError: the features are none, or of another number of bins than the network takes.
    """
    if features.ndim != 3 or 0 in features.shape or features.shape[2] != network.bins:
        raise UsageError(f"Features are (clips, frames, {network.bins}) here, not {list(features.shape)}.")
    clips, frames = features.shape[:2]
    layers: list[LayerCost] = []
    signals: dict[str, float | None] = {}
    training = network.training
    with torch.no_grad(), _watched(network, layers, signals):
        network.eval()
        network.head(network.traits(features))  # for every frame, as its spikes come
        network.train(training)
    recurrences, windows = [], []
    for name, rate in signals.items():
        memory = cast(Memory, network.get_submodule(name))
        order, taps = memory.order, memory.response.shape[1]
        past = int(_reach(frames, taps).sum())
        recurrences.append(LayerCost(name, "recurrence", (order * order + order) * frames, None))
        windows.append(LayerCost(name, "window", order * past, rate))
    constants = [cast(Unit, unit).memory for unit in network.units]
    return SpikeCost(
        tuple(layers),
        tuple(recurrences),
        tuple(windows),
        sum(p.numel() for p in network.parameters()),
        sum(memory.order * (memory.order + 1) for memory in constants),
        frames,
        clips,
    )


@contextmanager
def _watched(network: LMUFormer, layers: list[LayerCost], signals: dict[str, float | None]) -> Iterator[None]:
    """Fill ``layers`` and the rates of the memories' ``signals`` while the network runs."""

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            rate = _rate(inputs[0]) if network.spiking else None
            if isinstance(layer, nn.Conv1d):
                macs = out[0].numel() * layer.in_channels * layer.kernel_size[0]
                layers.append(LayerCost(name, "convolution", macs, rate))
            elif isinstance(layer, nn.Linear):
                layers.append(LayerCost(name, "linear", out[0].numel() * layer.in_features, rate))
            elif rate is None:
                signals[name] = None
            else:
                reach = _reach(inputs[0].shape[-1], cast(Memory, layer).response.shape[1]).to(inputs[0])
                signals[name] = float((inputs[0] * reach).sum() / (reach.sum() * len(inputs[0])))

        return layer.register_forward_hook(note)

    wanted = (nn.Conv1d, nn.Linear, Memory)
    handles = [watch(name, layer) for name, layer in network.named_modules() if isinstance(layer, wanted)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reach(frames: int, taps: int) -> Tensor:
    """Of how many frames' memory, as a sum over the past, the signal of each frame is a part: (frames,).

    A spike at the beginning of a clip is added more often than one at its end.
    """
    return torch.arange(frames, 0, -1).clamp(max=taps)


def _rate(x: Tensor) -> float | None:
    """Share of ones among zeros and ones; ``None`` where there is anything else."""
    ones, zeros = int((x == 1).sum()), int((x == 0).sum())
    return ones / x.numel() if ones + zeros == x.numel() else None
