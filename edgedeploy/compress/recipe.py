"""What a compression does: the settings of every stage, without torch.

The stages and their defaults follow Sabaghian et al., arXiv:2509.12918: training with a penalty on the scale factors of
batch normalisation, structured channel pruning, fine-tuning, and channel-wise distillation from the unpruned network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgedeploy.errors import UsageError

#: Stages in the order in which they run.
StageName = Literal["baseline", "sparse", "prune", "finetune", "distill"]
STAGES: tuple[StageName, ...] = ("baseline", "sparse", "prune", "finetune", "distill")

#: Parts of a network that pruning can leave alone (see `edgedeploy.compress.pruning.groups`).
Part = Literal["detect", "residual", "inner"]


@dataclass(frozen=True)
class Training:
    """One training inside Ultralytics' trainer.

    Args:
        epochs: passes over the training images; with 0 the stage is skipped.
        batch: images per step, over all processes.
        size: side of the square input in pixels, a multiple of 32.
        optimizer: ``SGD``, ``Adam``, ``AdamW``, or ``auto``, Ultralytics' own choice.
        rate: initial learning rate (``lr0``); with ``auto`` Ultralytics replaces it.
        final: last learning rate as a share of the first (``lrf``).
        warmup: epochs over which the learning rate rises.
        precision: ``fp32``; ``bf16`` or ``fp16``, automatic mixed precision (``fp16`` on a GPU only).
        close_mosaic: last epochs without mosaic augmentation, and without distillation.
        seed: of weights, order and augmentation.
        every: epochs between validations; 0 validates after the last one only.
        overrides: further settings of Ultralytics, as its ``cfg`` names them.
    """

    epochs: int = 100
    batch: int = 16
    size: int = 640
    optimizer: str = "SGD"
    rate: float = 0.01
    final: float = 0.01
    warmup: float = 3.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    close_mosaic: int = 10
    seed: int = 0
    every: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        _require(self.batch >= 1, "batch", self.batch, "at least 1")
        _require(self.size >= 32 and self.size % 32 == 0, "size", self.size, "a multiple of 32")
        _require(0 < self.rate < 10, "rate", self.rate, "above 0")
        _require(0 < self.final <= 1, "final", self.final, "above 0 and at most 1")
        _require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _require(self.close_mosaic >= 0, "close_mosaic", self.close_mosaic, "0 or more")
        _require(self.every >= 0, "every", self.every, "0 or more")


@dataclass(frozen=True)
class Slimming:
    """The penalty on scale factors: ``rate * sum |gamma|`` (Liu et al., arXiv:1708.06519, equation 1).

    Its weight in epoch e of E is ``rate * (1 - (1 - floor) * e / E)`` (arXiv:2509.12918, with a floor of 0.1).

    Args:
        rate: weight of the penalty in the first epoch.
        floor: share of it that the schedule ends at.
        method: ``subgradient`` adds ``rate * sign(gamma)`` to the unscaled gradients, after clipping, once per step of
            the optimiser; ``proximal`` shrinks gamma by ``learning rate * rate`` after the step, which gives exact
            zeros and does not depend on the optimiser.
        small: below this a scale factor counts as small in the log.
    """

    rate: float = 1e-4
    floor: float = 0.1
    method: Literal["subgradient", "proximal"] = "subgradient"
    small: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse what no penalty can be.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(math.isfinite(self.rate) and self.rate >= 0, "rate", self.rate, "0 or more")
        _require(0 <= self.floor <= 1, "floor", self.floor, "between 0 and 1")
        _require(self.small > 0, "small", self.small, "above 0")


@dataclass(frozen=True)
class Pruning:
    """Which share of the channels goes, and how it is spread over the groups of coupled channels.

    Args:
        ratio: share of channels removed, at least 0 and less than 1; with ``latency``, share of the predicted time.
        policy: ``uniform``: the same share of every group; ``global``: one threshold over all, as in network
            slimming, but of scale factors over the mean of their layer;
            ``latency``: the channels that buy the most predicted time on ``device`` per importance lost.
        keep: parts that keep their channels: ``detect`` (inside the head; its inputs are still pruned), ``residual``
            (of C2f blocks with shortcuts the first convolution and what is added to it), ``inner`` (the first
            convolution of the bottlenecks of those blocks).
        round_to: numbers of kept channels are multiples of this where the group is wide enough; 0 asks the device.
        least: channels that every group keeps at least.
        device: name of a device profile, for ``latency`` and ``round_to = 0``; this machine where ``None``.
        ratios: shares for single groups by name, in place of ``ratio``; what a search writes.
    """

    ratio: float = 0.5
    policy: Literal["uniform", "global", "latency"] = "uniform"
    keep: tuple[Part, ...] = ("detect",)
    round_to: int = 1
    least: int = 1
    device: str | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse ratios that would empty a layer, and what no pruning can be.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(0 <= self.ratio < 1, "ratio", self.ratio, "at least 0 and less than 1: with 1 no channel is left")
        for name, ratio in self.ratios.items():
            _require(0 <= ratio < 1, f"ratios.{name}", ratio, "at least 0 and less than 1: with 1 no channel is left")
        _require(self.round_to >= 0, "round_to", self.round_to, "0 or more")
        _require(self.least >= 1, "least", self.least, "at least 1")
        unknown = set(self.keep) - {"detect", "residual", "inner"}
        _require(not unknown, "keep", sorted(unknown), "of detect, residual and inner")


@dataclass(frozen=True)
class Distillation:
    """What the student learns from the unpruned teacher, beside the labels.

    Args:
        method: ``cwd``: channel-wise distillation (Shu et al., ICCV 2021, arXiv:2011.13256); ``mse``: mean squared
            difference of the same features; ``logit``: divergence of the class probabilities of the head.
        layers: indices of the layers whose outputs are compared; ``cwd`` and ``mse`` only. Empty: the inputs of the
            detection head (15, 18 and 21 in YOLOv8).
        temperature: T of the softmax over positions.
        weight: of the term, in a total that is otherwise the detection loss.
        normalize: batch normalisation without scale and shift on both sides before the softmax, so that channels of
            large range do not decide alone; ``cwd`` and ``mse`` only.
        warmup: epochs over which the weight rises from zero.
        off: last epochs without the term; where ``None``, as many as are without mosaic, unless those are all.
        teacher: whose result teaches: ``baseline``, the network before the penalty on its scale factors, or ``sparse``.
    """

    method: Literal["cwd", "mse", "logit"] = "cwd"
    layers: tuple[int, ...] = ()
    temperature: float = 1.0
    weight: float = 1.0
    normalize: bool = True
    warmup: float = 0.0
    off: int | None = None
    teacher: Literal["baseline", "sparse"] = "baseline"

    def __post_init__(self) -> None:
        """Refuse what no distillation can be.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(self.temperature > 0, "temperature", self.temperature, "above 0")
        _require(self.weight >= 0, "weight", self.weight, "0 or more")
        _require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _require(self.off is None or self.off >= 0, "off", self.off, "0 or more")
        _require(all(layer >= 0 for layer in self.layers), "layers", self.layers, "indices of layers")

    def last(self, training: Training) -> int:
        """How many of the last epochs of a training are without the term."""
        if self.off is not None:
            return self.off
        # without mosaic from the first epoch on there is none to end with, and nothing would be distilled at all
        return training.close_mosaic if training.close_mosaic < training.epochs else 0


@dataclass(frozen=True)
class Recipe:
    """A whole compression: what to do in every stage. A stage that is ``None`` is left out."""

    name: str
    baseline: Training | None = None
    sparse: Training | None = field(default_factory=Training)
    slimming: Slimming = field(default_factory=Slimming)
    prune: Pruning | None = field(default_factory=Pruning)
    finetune: Training | None = field(default_factory=Training)
    distill: Training | None = field(default_factory=Training)
    distillation: Distillation = field(default_factory=Distillation)

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages that are done, in order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"Recipe: {name} is {value!r}; it has to be {expected}.")
