"""How well a network tells the words of a set of clips apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgedeploy.bench.schedule import share_interval
from edgedeploy.models.lif import LIF
from edgedeploy.train.bank import Bank

#: Clips that are judged in one call.
_BATCH = 256


@dataclass(frozen=True)
class Score:
    """What a network makes of a set of clips.

    Args:
        clips: in the set.
        right: clips whose likeliest word is theirs.
        loss: mean binary cross-entropy over clips and classes.
        firing: mean share of frames in which the neurons of each spiking layer fire.
        speakers: clips recognised, and clips, of each speaker.
    """

    clips: int
    right: int
    loss: float
    firing: Mapping[str, float] = field(default_factory=dict)
    speakers: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of the clips that are recognised."""
        return self.right / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over clips (Wilson); clips of one speaker are not independent, so too narrow
        for other speakers.
        """
        return share_interval(self.right, self.clips)


def judge(network: nn.Module, bank: Bank) -> Score:
    """Accuracy and loss of a network, as it is, on all clips of a set; in eval mode while this lasts."""
    device = next(network.parameters()).device
    was = network.training
    network.eval()
    hits, loss = [], 0.0
    with torch.no_grad(), _firing(network) as spikes:
        for first in range(0, len(bank), _BATCH):
            indices = range(first, min(first + _BATCH, len(bank)))
            words = torch.from_numpy(bank.words[first : indices.stop]).to(device)
            logits = network(torch.from_numpy(bank.normalised(indices)).to(device)).float()
            targets = nn.functional.one_hot(words, logits.shape[1]).float()
            loss += float(nn.functional.binary_cross_entropy_with_logits(logits, targets)) * len(indices)
            hits += (logits.argmax(dim=1) == words).tolist()
    network.train(was)
    firing = {
        name: sum(fired for fired, _ in calls) / max(1, sum(of for _, of in calls)) for name, calls in spikes.items()
    }
    return Score(len(bank), sum(hits), loss / len(bank), firing, _by_speaker(bank, hits))


def _by_speaker(bank: Bank, hits: Sequence[bool]) -> dict[str, tuple[int, int]]:
    said: dict[str, list[bool]] = {}
    for clip, hit in zip(bank.clips.clips, hits, strict=True):
        said.setdefault(clip.speaker, []).append(hit)
    return {speaker: (sum(said[speaker]), len(said[speaker])) for speaker in sorted(said)}


@contextmanager
def _firing(network: nn.Module) -> Iterator[dict[str, list[tuple[float, int]]]]:
    """Listen to the spiking layers of a network: spikes, and neurons times frames, at every call, by name.

    Both, for calls are not all on as many clips.
    """
    heard: dict[str, list[tuple[float, int]]] = {}

    def listen(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        heard[name] = []
        return module.register_forward_hook(lambda _, inputs, spikes: heard[name].append(_fired(spikes)))

    handles = [listen(name, module) for name, module in network.named_modules() if isinstance(module, LIF)]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _fired(spikes: Tensor) -> tuple[float, int]:
    return float(spikes.sum(dtype=torch.float64)), spikes.numel()
