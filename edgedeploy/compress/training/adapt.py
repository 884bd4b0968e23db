"""A detector for other classes: the last convolutions of its head are made new, all else stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Step
from edgedeploy.errors import UsageError

#: Pixels of the image side, and objects per image, that the first biases of the classes are made for; Ultralytics' own.
_SIDE, _OBJECTS = 640, 5


def adapt(detector: Detector, labels: tuple[str, ...]) -> Detector:
    """The detector with these classes; itself where it has them already.

    Per level the 1x1 convolution of the class branch gets one row per class: that of the old class of the same name
    (upper and lower case are the same), or one that says as often as 5 objects per image would that it is there. What
    is before it keeps its weights and widths, as when Ultralytics trains a checkpoint for other classes.

    Raises:
        UsageError: no classes, two of the same name, or a head without class branches.
    """
    names = [label.strip().casefold() for label in labels]
    if not names:
        raise UsageError("A detector cannot be adapted to no classes: the data name none.")
    if len(set(names)) < len(names):
        twice = next(label for index, label in enumerate(labels) if names[index] in names[:index])
        raise UsageError(f"A detector cannot be adapted to classes of which two are {twice!r}. Rename one of them.")
    if labels == detector.labels:
        return detector
    known = {label.strip().casefold(): index for index, label in reversed(list(enumerate(detector.labels)))}
    rows = [known.get(name) for name in names]
    network = deepcopy(detector.network)
    head = network.model[-1]
    for stride, branch in _branches(head):
        branch[-1] = _convolution(branch[-1], rows, float(stride))
    head.nc, head.no = len(labels), len(labels) + 4 * head.reg_max
    network.nc, network.names = len(labels), dict(enumerate(labels))
    network.yaml = {**network.yaml, "nc": len(labels)}
    network.__dict__.pop("criterion", None)
    kept = [label for label, row in zip(labels, rows, strict=True) if row is not None]
    step = Step("adapt", {"labels": list(labels), "kept": kept})
    adapted = detector.after(network, step)
    return Detector(adapted.network, tuple(labels), adapted.size, adapted.lineage)


def _branches(head: Any) -> Iterator[tuple[float, Any]]:
    """Stride and class branch of every level; those of the second set of branches too, in a network that has one."""
    found = [getattr(head, name, None) for name in ("cv3", "one2one_cv3")]
    if found[0] is None or not all(isinstance(branch[-1], nn.Conv2d) for branch in found[0]):
        raise UsageError(f"The head of this network, {type(head).__name__}, has no class branches that can be rebuilt.")
    for branches in found:
        if branches is not None:
            yield from zip(head.stride.tolist(), branches, strict=True)


@torch.no_grad()
def _convolution(old: nn.Conv2d, rows: list[int | None], stride: float) -> nn.Conv2d:
    """The 1x1 convolution with these rows of ``old``; those without one are small random numbers, always the same."""
    new = nn.Conv2d(old.in_channels, len(rows), 1, device="meta").to_empty(device="cpu")
    assert new.bias is not None
    assert old.bias is not None
    nn.init.kaiming_uniform_(new.weight, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))
    new.bias.fill_(math.log(_OBJECTS / len(rows) / (_SIDE / stride) ** 2))
    for row, source in enumerate(rows):
        if source is not None:
            new.weight[row], new.bias[row] = old.weight[source], old.bias[source]
    new.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)
