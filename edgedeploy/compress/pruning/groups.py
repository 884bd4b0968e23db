"""Channels that can only be removed together, found in the network itself by torch-pruning's dependency graph.

A group is a set of channels that one or more convolutions write: in the plain case one, and several where a residual
connection adds them. It also names who reads the channels, and where. Names are of the network as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgedeploy.compress.pruning.split import Halved, skeleton, split
from edgedeploy.compress.recipe import Part
from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError, did_you_mean

#: The size that is traced; couplings do not depend on it.
_SIDE = 64


@dataclass(frozen=True)
class Span:
    """Channels ``start`` to ``stop`` (excluded) of a layer, a module by its dotted name in the network."""

    layer: str
    start: int
    stop: int


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed together; channel i of the group is channel ``start + i`` of every span.

    Args:
        name: of its first convolution, ``model.4.cv2``; ``model.4.cv1[1]`` is the second half of what ``model.4.cv1``
            writes.
        width: number of channels.
        layers: the batch normalisations whose channels they are.
        consumers: inputs of the convolutions that read them; SPPF reads each channel four times.
        tied: the group whose *number* of channels has to be equal, or ``None``: the other half of a C2f block.
        parts: of the network that it belongs to, among those that pruning can leave alone.
    """

    name: str
    width: int
    layers: tuple[Span, ...]
    consumers: tuple[Span, ...]
    tied: str | None = None
    parts: frozenset[Part] = frozenset()

    @property
    def block(self) -> str:
        """The layer of the network that it belongs to: ``model.4``."""
        return ".".join(self.name.split("[")[0].split(".")[:2])


def groups(network: Any, keep: tuple[Part, ...] = ("detect",)) -> tuple[Group, ...]:
    """The groups of channels of a YOLOv8 or YOLO11 detector that may be pruned, in the order of its layers.

    Never among them: the distances of the boxes, the classes, and what is inside C2PSA, the attention of YOLO11.

    Args:
        network: Ultralytics' DetectionModel, batch normalisation not folded; may be on the meta device.
        keep: parts that keep all their channels, see `edgedeploy.compress.recipe.Pruning`.

    Raises:
        UsageError: the network is of another family, or fused.
        Unavailable: torch-pruning is not installed.
    """
    twin = split(skeleton(network))
    graph = _graph(twin)
    parts = _parts(twin)
    names = {module: name for name, module in twin.named_modules()}
    found: list[Group] = []
    seen: set[str] = set()
    for root, own in parts.items():
        if f"{root}.bn" in seen or "attention" in own:
            continue
        group, members = _group(graph, twin.get_submodule(root).conv, names, root)
        seen |= members
        couplings = [parts[name.removesuffix(".bn")] for name in members]
        coupled: set[Any] = set().union(*couplings) - {"detect"}
        if all("detect" in part for part in couplings):
            coupled.add("detect")
        found.append(replace(group, parts=frozenset(coupled)))
    return outside(found, keep)


def outside(found: Iterable[Group], keep: Collection[str]) -> tuple[Group, ...]:
    """The groups that belong to none of the parts that keep their channels."""
    return tuple(group for group in found if not group.parts & set(keep))


def named(found: Iterable[Group], names: Collection[str]) -> None:
    """Refuse names of groups that there are not.

    Raises:
        UsageError: the first unknown name, and what it may have been meant to be.
    """
    known = [group.name for group in found]
    for name in names:
        if name not in known:
            raise UsageError(f"'{name}' is no group of channels that is pruned here.{did_you_mean(name, known)}")


def pairs(found: Iterable[Group]) -> Iterator[tuple[Group, ...]]:
    """The groups in order, those that have to keep equal numbers of channels together."""
    tied: dict[str, list[Group]] = {}
    for group in found:
        tied.setdefault(group.tied or group.name, []).append(group)
    yield from (tuple(members) for members in tied.values())


def _graph(twin: Any) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise Unavailable.extra("torch-pruning, which finds what channels are coupled,", "compress") from error

    def forward(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
        network.model[-1].training = True  # raw predictions, without anchors
        raw = network(image)
        return [raw["boxes"], raw["scores"]]

    for parameter in twin.parameters():
        parameter.requires_grad_(True)  # the trace follows gradients
    image = torch.zeros(1, 3, _SIDE, _SIDE, device="meta")
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(twin, image, forward_fn=forward, verbose=False)


def _group(graph: Any, conv: Any, names: Mapping[Any, str], root: str) -> tuple[Group, set[str]]:
    """The group that starts at a convolution, and the names of its normalisations in the halved network."""
    width = conv.out_channels
    whole, first = (_touched(graph, conv, names, indices) for indices in (range(width), range(1)))
    layers: list[Span] = []
    consumers: list[Span] = []
    for (name, module, writes), channels in whole.items():
        starts = first[name, module, writes]
        if channels != {start + i for start in starts for i in range(width)}:
            raise EdgeDeployError(f"The channels of {root} do not reach {name} in one piece. This is a bug: report it.")
        is_norm = isinstance(module, nn.BatchNorm2d)
        if not is_norm and writes:
            continue  # its normalisation stands for it
        for start in sorted(starts):
            original, shift = _original(name, width if is_norm else 0)
            (layers if is_norm else consumers).append(Span(original, start + shift, start + shift + width))
    members = {name for name, module, _ in whole if isinstance(module, nn.BatchNorm2d)}
    title, half = _halves(root)
    tied = None if half != 0 else f"{title}[1]"
    name = title if half is None else f"{title}[{half}]"
    return Group(name, width, tuple(layers), tuple(dict.fromkeys(consumers)), tied), members


def _touched(graph: Any, conv: Any, names: Mapping[Any, str], indices: range) -> dict[tuple[str, Any, bool], set[int]]:
    """Channels of convolutions and normalisations that go with some of a convolution: (name, module, written)."""
    import torch_pruning

    found: dict[tuple[str, Any, bool], set[int]] = {}
    for dependency, channels in graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, list(indices)):
        module = dependency.target.module
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            reads = graph.is_in_channel_pruning_fn(dependency.handler)
            writes = graph.is_out_channel_pruning_fn(dependency.handler)
            found.setdefault((names[module], module, writes or not reads), set()).update(channels)
    return found


def _halves(name: str) -> tuple[str, int | None]:
    """``model.2.cv1.0`` of the halved network is (``model.2.cv1``, 0) of the network, anything else (itself, None)."""
    parts = name.split(".")
    if len(parts) == 4 and parts[2] == "cv1" and parts[3] in ("0", "1"):
        return ".".join(parts[:3]), int(parts[3])
    return name, None


def _original(name: str, width: int) -> tuple[str, int]:
    """Name of a layer of the halved network in the network, and where its channels begin there."""
    path, _, leaf = name.rpartition(".")
    title, half = _halves(path)
    return f"{title}.{leaf}", (half or 0) * width


def _parts(twin: Any) -> dict[str, set[str]]:
    """Which parts every convolution with normalisation belongs to, by its name in the halved network."""
    head = f"model.{len(twin.model) - 1}."
    found: dict[str, set[str]] = {}
    for name, module in twin.named_modules():
        if type(module).__name__ in ("Conv", "DWConv"):
            found[name] = {"detect"} if name.startswith(head) else set()
    for name, block in twin.named_modules():
        kind = type(block).__name__
        if kind == "C2PSA":
            for conv in found:
                if conv.startswith(f"{name}.") and conv != f"{name}.cv2":
                    found[conv].add("attention")
        adding = [
            child for child, m in getattr(block, "m", nn.Sequential()).named_children() if getattr(m, "add", False)
        ]
        if kind in (Halved.__name__, "C3k") and adding:
            for conv in found:
                if conv == f"{name}.cv1" or conv.startswith(f"{name}.cv1."):
                    found[conv].add("residual")
            for child in adding:
                found[f"{name}.m.{child}.cv2"].add("residual")
                found[f"{name}.m.{child}.cv1"].add("inner")
    return found
