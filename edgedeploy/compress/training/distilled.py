"""A network that learns from a second one while it is trained: the detection loss gets one more term.

Between `begin` and `end` a ``DetectionModel`` of Ultralytics is a `Distilled`, which is the same network with another
``loss``. Importing this module imports ``ultralytics`` (AGPL-3.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.compress.recipe import Distillation
from edgedeploy.compress.training import losses
from edgedeploy.errors import UsageError
from edgedeploy.models.yolo import quietly

with quietly():
    from ultralytics.nn.tasks import DetectionModel


class Distilled(DetectionModel):  # type: ignore[misc]  # ultralytics is not typed for us
    """A detection network whose training loss also compares it with a teacher. Made by `begin`, undone by `end`.

    ``connectors`` (layer -> 1x1 convolution to the teacher's width) are trained with the network, averaged with it and
    synchronised with it. The teacher is no submodule: parameters, state and copies are those of the student alone.
    """

    lesson: Lesson
    connectors: nn.ModuleDict

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The detection loss with one more entry, times the batch size as the others are, and one more named item.

        In eval mode, and with weight 0, the entry is zero and the teacher is not run.

        Raises:
            UsageError: predictions come from outside (a compiled network), or this is a copy without a teacher.
        """
        lesson = self.lesson
        images: Tensor = batch["img"]
        if not self.training or lesson.weight == 0:
            total, items = super().loss(batch, preds)
            term = total.new_zeros(())
        else:
            if preds is not None:
                raise UsageError("Distillation sees only what its own forward pass computes: train with compile=False.")
            wanted = lesson.wanted(images, like=self)
            with _outputs(self, lesson.layers) as given:
                total, items = super().loss(batch)
            term = lesson.weight * self._distance(given, wanted)
        item = {lesson.distillation.method: term.detach()}
        return torch.cat([total, (term * images.shape[0]).reshape(1)]), {**items, **item}

    def _distance(self, given: dict[int, Any], wanted: dict[int, Any]) -> Tensor:
        """Sum over the layers of what the student (``given``) is away from the teacher (``wanted``)."""
        distillation = self.lesson.distillation
        if distillation.method == "logit":
            (head,) = given
            return losses.logit(_scores(given[head]), _scores(wanted[head]), distillation.temperature)
        terms = []
        for layer, student in given.items():
            teacher = wanted[layer]
            if str(layer) in self.connectors:
                student = self.connectors[str(layer)](student)
            if distillation.normalize:
                student, teacher = _standardised(student), _standardised(teacher)
            if distillation.method == "cwd":
                terms.append(losses.cwd(student, teacher, distillation.temperature))
            else:
                terms.append(losses.mse(student, teacher))
        return torch.stack(terms).sum()


class Lesson:
    """What a `Distilled` network knows of its teacher; copies and pickles of it are without the teacher itself."""

    def __init__(self, teacher: DetectionModel, layers: tuple[int, ...], distillation: Distillation) -> None:
        """Keep a frozen copy of the teacher, so that neither its mode nor its device changes for its owner."""
        self.teacher: DetectionModel | None = deepcopy(teacher).float().eval().requires_grad_(False)
        self.teacher.model[-1].export = False  # an exporting head keeps its raw scores to itself
        self.layers = layers
        self.distillation = distillation
        self.weight = distillation.weight

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the teacher."""
        return {**self.__dict__, "teacher": None}

    @torch.no_grad()
    def wanted(self, images: Tensor, like: nn.Module) -> dict[int, Any]:
        """What the teacher's layers say of (N, 3, H, W) images, on their device, in the memory format of ``like``."""
        if self.teacher is None:
            raise UsageError("This network is a copy without its teacher, and cannot be distilled: begin it again.")
        # on a GPU Ultralytics sets the format of the weights, not that of the images
        kernel = next(p for p in like.parameters() if p.dim() == 4)
        plain = kernel.is_contiguous() or not kernel.is_contiguous(memory_format=torch.channels_last)
        self.teacher.to(images.device, memory_format=torch.contiguous_format if plain else torch.channels_last)
        with _outputs(self.teacher, self.layers) as seen:
            head = len(self.teacher.model) - 1
            # where the head is not compared it is not run either: an embedding stops at its last layer
            self.teacher.predict(images, embed=None if head in self.layers else [max(self.layers)])
        return seen


def begin(network: DetectionModel, teacher: DetectionModel, distillation: Distillation) -> None:
    """Add the comparison with ``teacher`` to the training loss of ``network``, from now on and in place.

    Call it before the optimiser, the moving average and the parallel wrapper are made, so that they see the connectors.

    Raises:
        UsageError: one of the two is not a plain detection network, or they differ in classes, layers or strides, or a
            layer to compare does not exist or is of different resolution in both.
    """
    _require_alike(network, teacher)
    layers = _layers(network, distillation)
    connectors = nn.ModuleDict()
    if distillation.method != "logit":
        bias = distillation.method == "mse" and not distillation.normalize  # elsewhere a constant changes nothing
        for layer, (ours, theirs) in _widths(network, teacher, layers).items():
            if ours != theirs:
                connectors[str(layer)] = _connector(ours, theirs, bias=bias, seed=layer)
    lesson = Lesson(teacher, layers, distillation)
    network.__class__ = Distilled
    network.lesson = lesson
    network.connectors = connectors.to(next(network.parameters()).device)


def set_weight(network: DetectionModel, weight: float) -> None:
    """Weigh the term by ``weight`` from now on; with 0 the teacher is not run.

    Raises:
        UsageError: the network is not between `begin` and `end`, or the weight is negative or not finite.
    """
    if not isinstance(network, Distilled):
        raise UsageError("This network has no teacher; distillation has to begin before its weight is set.")
    if not (math.isfinite(weight) and weight >= 0):
        raise UsageError(f"The weight of distillation is {weight}; it has to be 0 or more.")
    network.lesson.weight = weight


def end(network: DetectionModel) -> None:
    """Make ``network``, or a copy of it, what it was before `begin`, with the weights it has learnt since."""
    if isinstance(network, Distilled):
        del network.lesson, network.connectors
        network.__class__ = DetectionModel


def _require_alike(network: DetectionModel, teacher: DetectionModel) -> None:
    """Refuse two networks that cannot be compared layer by layer."""
    if isinstance(network, Distilled):
        raise UsageError("This network already has a teacher: end that distillation before another begins.")
    for name, model in (("student", network), ("teacher", teacher)):
        if type(model) is not DetectionModel:
            raise UsageError(f"The {name} is a {type(model).__name__}, not a plain detection network.")
    ours, theirs = _classes(network), _classes(teacher)
    if len(ours) != len(theirs):
        raise UsageError(
            f"The student knows {len(ours)} classes and the teacher {len(theirs)}; distil from a teacher of the same."
        )
    for index, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        if mine != its and str(index) not in (mine, its):  # a network made from a yaml has numbers for names
            raise UsageError(
                f"Class {index} is {mine!r} for the student and {its!r} for the teacher; order them alike."
            )
    if len(network.model) != len(teacher.model):
        raise UsageError(
            f"The student has {len(network.model)} layers and the teacher {len(teacher.model)}: they are of different "
            "families, and their layers do not correspond. Take a teacher of the student's family."
        )
    if network.stride.tolist() != teacher.stride.tolist():
        raise UsageError(
            f"The student's strides are {network.stride.tolist()} and the teacher's {teacher.stride.tolist()}; "
            "distillation needs equal ones."
        )


def _classes(network: DetectionModel) -> tuple[str, ...]:
    head = network.model[-1]
    return tuple(str(network.names.get(index, index)) for index in range(head.nc))


def _layers(network: DetectionModel, distillation: Distillation) -> tuple[int, ...]:
    """The layers that are compared, in order."""
    head = len(network.model) - 1
    if distillation.method == "logit":
        return (head,)
    layers = tuple(sorted(set(distillation.layers))) or tuple(sorted(network.model[-1].f))
    if max(layers) >= head:
        raise UsageError(f"Layer {max(layers)} cannot be distilled: the features of this network are 0 to {head - 1}.")
    return layers


@torch.no_grad()
def _widths(network: DetectionModel, teacher: DetectionModel, layers: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Channels of each layer in both networks, by running copies of both on one small image."""
    side = 2 * int(network.stride.max())
    shapes = []
    for model in (network, teacher):
        probe = deepcopy(model).eval()
        image = torch.zeros(1, probe.yaml.get("channels", 3), side, side, device=next(probe.parameters()).device)
        with _outputs(probe, layers) as seen:
            probe.predict(image.to(next(probe.parameters()).dtype), embed=[max(layers)])
        shapes.append({layer: tuple(output.shape) for layer, output in seen.items()})
    for layer in layers:
        ours, theirs = shapes[0][layer][2:], shapes[1][layer][2:]
        if ours != theirs:
            raise UsageError(
                f"At layer {layer} the student has {ours[0]}x{ours[1]} positions and the teacher {theirs[0]}x"
                f"{theirs[1]} of an image of {side}x{side}; only layers of equal stride can be compared."
            )
    return {layer: (shapes[0][layer][1], shapes[1][layer][1]) for layer in layers}


def _connector(width: int, target: int, bias: bool, seed: int) -> nn.Conv2d:
    """A 1x1 convolution, initialised as torch does by default, without touching torch's own random state."""
    connector = nn.Conv2d(width, target, kernel_size=1, bias=bias, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(connector.weight, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    if connector.bias is not None:
        nn.init.zeros_(connector.bias)
    return connector


@contextmanager
def _outputs(network: DetectionModel, layers: tuple[int, ...]) -> Iterator[dict[int, Any]]:
    """A dictionary (layer -> output) that fills when the network runs inside the block.

    The hooks are gone after it, so that no copy of the network takes them, or the tensors that they hold, along.
    """
    seen: dict[int, Any] = {}

    def keep(layer: int) -> Any:
        return lambda module, inputs, output: seen.__setitem__(layer, output)

    handles = [network.model[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _scores(output: Any) -> Tensor:
    """Raw class scores (N, classes, anchors) in what a head returns, in training or in eval mode."""
    raw = output[1] if isinstance(output, tuple) else output
    return cast(Tensor, raw.get("one2many", raw)["scores"])


def _standardised(features: Tensor) -> Tensor:
    """(N, C, H, W) with mean 0 and variance 1 per channel over this batch, in float32."""
    with torch.autocast(features.device.type, enabled=False):
        return F.batch_norm(features.float(), None, None, training=True)
