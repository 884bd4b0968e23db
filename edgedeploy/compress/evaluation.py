"""How accurate a detector in memory is: in float32, by the code that also judges what is exported from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from edgedeploy.accuracy import Assessment, Progress, assess
from edgedeploy.compress.detector import Detector
from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import DetectionSet
from edgedeploy.tasks.detect import Detect
from edgedeploy.tasks.protocol import ULTRALYTICS, Protocol
from edgedeploy.tensors import Array


def evaluate(
    detector: Detector,
    data: DetectionSet,
    protocol: Protocol = ULTRALYTICS,
    size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Assessment:
    """The accuracy of a detector on a data set, image by image, on the device where its network is.

    The network is neither fused nor changed: what is switched for this (eval mode, the head's output) is switched back.

    Raises:
        UsageError: other classes than the data set's, or a size that the strides do not divide.
    """
    head = detector.network.model[-1]
    strides = tuple(int(stride) for stride in head.stride)
    size = size or detector.size
    if any(side <= 0 or side % max(strides) for side in size):
        raise UsageError(f"The image size {size[0]}x{size[1]} is not a multiple of {max(strides)}.")
    end_to_end = bool(getattr(head, "end2end", False))
    task = Detect(detector.labels, size, strides=strides, head="end2end" if end_to_end else "yolov8")
    with exporting(detector.network) as network:
        place = next(network.parameters()).device

        def call(inputs: tuple[Array, ...]) -> Sequence[Array]:
            output = network(torch.from_numpy(inputs[0]).to(place))
            return [output.float().cpu().numpy()]

        return assess(task, call, data, digest(network), protocol, progress)


def digest(network: torch.nn.Module) -> str:
    """sha256 over the names, shapes and bytes of a network's tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextmanager
def exporting(network: Any) -> Iterator[Any]:
    """The network as it is exported: in eval mode, its head giving one tensor; afterwards as it was.

    Every module gets its own mode back, because a trainer freezes some of them. What the head remembers of its last
    input's shape is put back too: a training that goes on with what was made under `torch.inference_mode` would fail.
    """
    head = network.model[-1]
    modes = [(module, module.training) for module in network.modules()]
    names = ("export", "anchors", "strides", "shape")
    own = {name: head.__dict__[name] for name in names if name in head.__dict__}
    network.eval()
    head.export, head.shape = True, None
    try:
        with torch.no_grad():
            yield network
    finally:
        for module, mode in modes:
            module.training = mode
        for name in names:
            head.__dict__.pop(name, None)
        head.__dict__.update(own)
