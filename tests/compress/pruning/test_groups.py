"""Which channels belong together, against the structure of YOLOv8 and YOLO11 written down by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch_pruning")
pytest.importorskip("ultralytics")

import torch
from torch import nn

from edgedeploy.compress.pruning.groups import Group, Span, groups, named, outside, pairs
from edgedeploy.compress.pruning.split import check, skeleton, split
from edgedeploy.errors import UsageError
from edgedeploy.models.yolo import quietly


def built(yaml: str) -> Any:
    with quietly():
        from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel(yaml, nc=4, verbose=False).eval()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Any:
    return built("yolov8n.yaml")


@pytest.fixture(scope="module")
def newer() -> Any:
    return built("yolo11n.yaml")


@pytest.fixture(scope="module")
def eight(network: Any) -> dict[str, Group]:
    return {group.name: group for group in groups(network, ())}


@pytest.fixture(scope="module")
def eleven(newer: Any) -> dict[str, Group]:
    return {group.name: group for group in groups(newer, ())}


def told(spans: tuple[Span, ...]) -> set[str]:
    return {f"{span.layer} {span.start}:{span.stop}" for span in spans}


@pytest.mark.parametrize(
    ("name", "layers", "consumers"),
    [
        ("model.0", {"model.0.bn 0:16"}, {"model.1.conv 0:16"}),
        # the first half of a C2f is read by its last convolution alone
        ("model.4.cv1[0]", {"model.4.cv1.bn 0:32"}, {"model.4.cv2.conv 0:32"}),
        # with shortcuts the second half is added to what every bottleneck writes
        (
            "model.4.cv1[1]",
            {"model.4.cv1.bn 32:64", "model.4.m.0.cv2.bn 0:32", "model.4.m.1.cv2.bn 0:32"},
            {"model.4.m.0.cv1.conv 0:32", "model.4.m.1.cv1.conv 0:32"}
            | {f"model.4.cv2.conv {start}:{start + 32}" for start in (32, 64, 96)},
        ),
        ("model.4.m.1.cv1", {"model.4.m.1.cv1.bn 0:32"}, {"model.4.m.1.cv2.conv 0:32"}),
        # without them it is not
        (
            "model.12.cv1[1]",
            {"model.12.cv1.bn 64:128"},
            {"model.12.m.0.cv1.conv 0:64", "model.12.cv2.conv 64:128"},
        ),
        ("model.12.m.0.cv2", {"model.12.m.0.cv2.bn 0:64"}, {"model.12.cv2.conv 128:192"}),
        # backbone to neck: behind the upsampled 12 in the concatenation 14, behind 9 in 11
        ("model.4.cv2", {"model.4.cv2.bn 0:64"}, {"model.5.conv 0:64", "model.15.cv1.conv 128:192"}),
        ("model.6.cv2", {"model.6.cv2.bn 0:128"}, {"model.7.conv 0:128", "model.12.cv1.conv 256:384"}),
        (
            "model.9.cv1",
            {"model.9.cv1.bn 0:128"},
            {f"model.9.cv2.conv {start}:{start + 128}" for start in (0, 128, 256, 384)},
        ),
        ("model.9.cv2", {"model.9.cv2.bn 0:256"}, {"model.12.cv1.conv 0:256", "model.21.cv1.conv 128:384"}),
        ("model.12.cv2", {"model.12.cv2.bn 0:128"}, {"model.15.cv1.conv 0:128", "model.18.cv1.conv 64:192"}),
        ("model.16", {"model.16.bn 0:64"}, {"model.18.cv1.conv 0:64"}),
        (
            "model.18.cv2",
            {"model.18.cv2.bn 0:128"},
            {"model.19.conv 0:128", "model.22.cv2.1.0.conv 0:128", "model.22.cv3.1.0.conv 0:128"},
        ),
        ("model.22.cv3.2.1", {"model.22.cv3.2.1.bn 0:64"}, {"model.22.cv3.2.2 0:64"}),
    ],
)
def test_yolov8_couples_what_its_structure_couples(
    name: str, layers: set[str], consumers: set[str], eight: dict[str, Group]
) -> None:
    group = eight[name]
    assert (told(group.layers), told(group.consumers)) == (layers, consumers)
    assert len(group.consumers) == len(consumers)


def test_every_channel_of_every_layer_is_in_one_group(network: Any, eight: dict[str, Group]) -> None:
    written = sorted((s.layer, c) for group in eight.values() for s in group.layers for c in range(s.start, s.stop))
    norms = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert written == sorted((name, c) for name, norm in norms for c in range(norm.num_features))
    read = sorted((s.layer, c) for group in eight.values() for s in group.consumers for c in range(s.start, s.stop))
    convs = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and ".dfl" not in name]
    assert read == sorted((name, c) for name, conv in convs[1:] for c in range(conv.in_channels))


def test_halves_are_tied_and_blocks_named(eight: dict[str, Group]) -> None:
    assert (eight["model.2.cv1[0]"].tied, eight["model.2.cv1[1]"].tied) == ("model.2.cv1[1]", None)
    twos = [tuple(group.name for group in members) for members in pairs(eight.values()) if len(members) == 2]
    assert twos == [(f"model.{i}.cv1[0]", f"model.{i}.cv1[1]") for i in (2, 4, 6, 8, 12, 15, 18, 21)]
    assert list(dict.fromkeys(group.block for group in eight.values())) == [
        f"model.{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 18, 19, 21, 22)
    ]


def test_parts_that_are_kept_are_no_groups(eight: dict[str, Group]) -> None:
    gone = {part: set(eight) - {g.name for g in outside(eight.values(), (part,))} for part in ("detect", "residual")}
    assert gone["detect"] == {
        f"model.22.{cv}.{level}.{i}" for cv in ("cv2", "cv3") for level in range(3) for i in (0, 1)
    }
    assert gone["residual"] == {f"model.{i}.cv1[{half}]" for i in (2, 4, 6, 8) for half in (0, 1)}
    inner = set(eight) - {group.name for group in outside(eight.values(), ("inner",))}
    assert inner == {f"model.{i}.m.{k}.cv1" for i, count in ((2, 1), (4, 2), (6, 2), (8, 1)) for k in range(count)}


def test_yolo11_couples_depthwise_layers_and_leaves_attention_alone(eleven: dict[str, Group]) -> None:
    out = eleven["model.16.cv2"]  # into the head through a depthwise convolution, which writes what it reads
    assert told(out.layers) == {"model.16.cv2.bn 0:64", "model.23.cv3.0.0.0.bn 0:64"}
    assert told(out.consumers) == {"model.17.conv 0:64", "model.23.cv2.0.0.conv 0:64", "model.23.cv3.0.0.1.conv 0:64"}
    assert out.parts == frozenset()
    assert eleven["model.23.cv3.0.0.1"].parts == {"detect"}
    assert told(eleven["model.23.cv3.0.0.1"].layers) == {"model.23.cv3.0.0.1.bn 0:64", "model.23.cv3.0.1.0.bn 0:64"}
    assert [name for name in eleven if name.startswith("model.10.")] == ["model.10.cv2"]
    inside = eleven["model.6.m.0.cv1"]  # C3k: its own shortcuts, and nothing of the block around it
    assert told(inside.layers) == {f"model.6.m.0.{layer}.bn 0:32" for layer in ("cv1", "m.0.cv2", "m.1.cv2")}
    assert told(eleven["model.6.cv1[1]"].layers) == {"model.6.cv1.bn 64:128"}


def test_a_split_network_computes_the_same_bit_for_bit(network: Any, newer: Any) -> None:
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for whole in (network, newer):
            assert torch.equal(whole(image)[0], split(whole)(image)[0])


def test_a_skeleton_weighs_nothing_and_leaves_the_network_whole(network: Any) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    bones = skeleton(network)
    assert {tensor.device.type for tensor in bones.state_dict().values()} == {"meta"}
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.model[-1].training


def test_unknown_names_are_refused_with_the_nearest(eight: dict[str, Group]) -> None:
    with pytest.raises(UsageError, match=r"'model\.4\.cv3' is no group.*Did you mean 'model\.4\.cv2'"):
        named(eight.values(), ["model.0", "model.4.cv3"])


def test_other_networks_are_refused(network: Any) -> None:
    with pytest.raises(UsageError, match=r"model\.0 has no batch normalisation.*the network is fused"):
        groups(copy.deepcopy(network).fuse(verbose=False))
    with pytest.raises(UsageError, match="is a Sequential; pruning takes detectors of the families YOLOv8 and YOLO11"):
        check(nn.Sequential(nn.Conv2d(3, 3, 1)))
    foreign, paired = copy.deepcopy(network), copy.deepcopy(network)
    foreign.model[0].act = Foreign()
    with pytest.raises(UsageError, match="has layers of class Foreign; pruning takes"):
        check(foreign)
    paired.model[-1].one2one_cv2 = nn.Identity()  # as in YOLOv10 and YOLO26
    with pytest.raises(UsageError, match=r"a second branch \(end to end\)"):
        check(paired)


class Foreign(nn.Module):
    """A layer of somebody else."""
