"""A pruned network is a network: the same where nothing was lost, smaller, trainable, of Ultralytics' own classes."""

from __future__ import annotations

import copy
import io
import math
import pickletools
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch_pruning")
pytest.importorskip("ultralytics")

import torch
from torch import nn

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Lineage
from edgedeploy.compress.pruning.count import count
from edgedeploy.compress.pruning.groups import Group, groups, pairs
from edgedeploy.compress.pruning.importance import importance
from edgedeploy.compress.pruning.policy import choose
from edgedeploy.compress.pruning.prune import Narrowed, prune, prune_detector
from edgedeploy.compress.recipe import Pruning
from edgedeploy.errors import UsageError
from edgedeploy.models.yolo import quietly

SIDE = 64
LABELS = ("car", "van", "truck", "bus")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(yaml: str) -> Any:
    """A network with weights and statistics from a seed, made without Ultralytics' slow initialisation."""
    with quietly():
        from ultralytics.nn.modules.head import Detect
        from ultralytics.nn.tasks import DetectionModel

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(Detect, "bias_init", lambda self: None)
        network = DetectionModel(yaml, nc=len(LABELS), verbose=False)
    network.model.to_empty(device="cpu")
    network.eval()
    network.stride = network.model[-1].stride = torch.tensor([8.0, 16.0, 32.0])
    network.args = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    network.names = dict(enumerate(LABELS))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                bound = math.sqrt(3 / module.weight[0].numel())
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.2, 0.2, generator=generator)
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
                module.num_batches_tracked.zero_()  # type: ignore[union-attr]
        network.model[-1].dfl.conv.weight.copy_(torch.arange(16.0).view(1, 16, 1, 1))
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return built("yolov8n.yaml")


@pytest.fixture(scope="module")
def found(network: Any) -> tuple[Group, ...]:
    return groups(network, ())


@pytest.fixture(scope="module")
def half(network: Any, found: tuple[Group, ...]) -> Any:
    """The nano network with half of everything outside of the head's inside."""
    some = groups(network)
    return prune(network, choose(some, importance(network, some), Pruning(0.5)), found)


def output(network: Any, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = network(image)[0]
    return out


def test_pruning_nothing_changes_no_bit(network: Any, found: tuple[Group, ...]) -> None:
    kept = choose(found, importance(network, found), Pruning(0.0, keep=()))
    same = prune(network, kept)
    assert same is not network
    own, other = network.state_dict(), same.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[name], other[name]) for name in own)
    image = torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(output(network, image), output(same, image))


@pytest.mark.parametrize("yaml", [*(f"yolov8{scale}.yaml" for scale in "nsmlx"), "yolo11n.yaml"])
def test_channels_that_say_nothing_can_go(yaml: str) -> None:
    """Where scale and shift are zero the channel is zero behind SiLU, sums, pools and concatenations."""
    network = built(yaml)
    everything = groups(network, ())
    generator = np.random.default_rng(0)
    kept = {}
    for members in pairs(everything):
        number = int(generator.integers(1, members[0].width))
        for group in members:
            kept[group.name] = tuple(sorted(generator.choice(group.width, number, replace=False).tolist()))
    with torch.no_grad():
        for group in everything:
            gone = [i for i in range(group.width) if i not in kept[group.name]]
            for span in group.layers:
                norm = network.get_submodule(span.layer)
                norm.weight[[span.start + i for i in gone]] = 0.0
                norm.bias[[span.start + i for i in gone]] = 0.0
    image = torch.rand(1, 3, SIDE, SIDE)
    before = output(network, image)
    small = prune(network, kept, everything)
    after = output(small, image)
    scale = before.abs().amax(dim=(0, 2), keepdim=True).clamp(min=1.0)
    assert ((before - after).abs() / scale).max() < 1e-5
    assert before.std() > 0.1
    assert count(small, (SIDE, SIDE)).params < 0.7 * count(network, (SIDE, SIDE)).params


@settings(max_examples=8, phases=[Phase.generate])  # a smaller example says no more
@given(seed=st.integers(0, 10_000))
def test_widths_add_up_wherever_layers_meet(seed: int, network: Any, found: tuple[Group, ...]) -> None:
    generator = np.random.default_rng(seed)
    kept = {}
    for members in pairs(found):
        number = int(generator.integers(1, members[0].width + 1))
        for group in members:
            kept[group.name] = tuple(generator.choice(group.width, number, replace=False).tolist())
    small = prune(network, kept, found)
    writes: list[int] = []
    for i, layer in enumerate(small.model):
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        inputs = [writes[i - 1 if f == -1 else f] if i else 3 for f in sources]
        kind = type(layer).__name__
        if kind == "C2f":
            assert layer.cv1.conv.out_channels == 2 * layer.c
            streams = 2 * layer.c + sum(m.cv2.conv.out_channels for m in layer.m)
            assert (layer.cv1.conv.in_channels, layer.cv2.conv.in_channels) == (inputs[0], streams)
        elif kind == "SPPF":
            assert layer.cv2.conv.in_channels == 4 * layer.cv1.conv.out_channels
            assert layer.cv1.conv.in_channels == inputs[0]
        elif kind == "Detect":
            for branch in (layer.cv2, layer.cv3):
                assert [level[0].conv.in_channels for level in branch] == inputs
        elif kind == "Conv":
            assert layer.conv.in_channels == inputs[0]
        last = getattr(layer, "cv2", layer)
        writes.append(last.conv.out_channels if kind in ("C2f", "SPPF", "Conv") else sum(inputs))
    assert output(small, torch.zeros(1, 3, 32, 32)).shape == (1, 4 + len(LABELS), 21)
    assert torch.equal(small.model[0].bn.weight, network.model[0].bn.weight[sorted(kept["model.0"])])


def test_a_pruned_network_trains_and_the_whole_one_is_untouched(network: Any, found: tuple[Group, ...]) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    some = groups(network)
    small = prune(network, choose(some, importance(network, some), Pruning(0.5)), found).train()
    small.args = SimpleNamespace(**network.args)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    frozen = [name for name, parameter in small.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    batch = {
        "img": torch.rand(2, 3, SIDE, SIDE),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [3.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.4, 0.6, 0.5, 0.5]]),
    }
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = small.loss(batch)[0].sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_it_is_copied_fused_and_pickled_as_any_other(half: Any) -> None:
    image = torch.rand(1, 3, SIDE, SIDE)
    wanted = output(half, image)
    assert torch.equal(output(copy.deepcopy(half), image), wanted)
    fused = copy.deepcopy(half).fuse(verbose=False)
    assert torch.allclose(output(fused, image), wanted, atol=1e-3)
    stream = io.BytesIO()
    torch.save(half, stream)
    with zipfile.ZipFile(stream) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    named = {str(arg) for operation, arg, _ in pickletools.genops(data) if operation.name == "GLOBAL"}
    assert named
    assert all(
        name.split(".")[0].split(" ")[0] in ("torch", "ultralytics", "collections", "__builtin__") for name in named
    )
    stream.seek(0)
    assert torch.equal(output(torch.load(stream, weights_only=False), image), wanted)


def test_it_can_be_pruned_again(half: Any) -> None:
    again = groups(half)
    quarter = prune(half, choose(again, importance(half, again), Pruning(0.5)))
    assert quarter.model[4].cv2.conv.out_channels == 16
    assert quarter.model[4].c == 8
    assert output(quarter, torch.rand(1, 3, SIDE, SIDE)).isfinite().all()


def test_importance_is_the_mean_of_normalised_scale_factors(network: Any, found: tuple[Group, ...]) -> None:
    twin = copy.deepcopy(network)
    group = next(group for group in found if group.name == "model.2.cv1[1]")
    with torch.no_grad():
        twin.model[2].cv1.bn.weight[16:] = torch.linspace(-30, 30, 16)  # its size counts, against its own mean
        twin.model[2].m[0].cv2.bn.weight[:] = 0.5
    linear = np.abs(np.linspace(-30, 30, 16))
    expected = (linear / linear.mean() + 1) / 2
    assert importance(twin, [group])[group.name].tolist() == pytest.approx(expected.tolist())
    with torch.no_grad():
        twin.model[2].cv1.bn.weight[16:] = 0.0
    assert importance(twin, [group])[group.name].tolist() == [0.5] * 16
    with torch.no_grad():
        twin.model[2].cv1.bn.weight[20] = math.nan
    with pytest.raises(UsageError, match=r"model\.2\.cv1\.bn has scale factors that are not finite"):
        importance(twin, [group])


def test_the_stage_says_what_it_did(network: Any) -> None:
    detector = Detector(network, LABELS, (SIDE, 2 * SIDE), Lineage("a.pt", "0" * 64))
    small, pruned = prune_detector(detector, Pruning(0.5, round_to=4, ratios={"model.0": 0.0}))
    assert pruned.layers[:2] == (Narrowed("model.0.conv", 16, 16), Narrowed("model.1.conv", 32, 16))
    assert pruned.params == (count(network, detector.size).params, count(small.network, detector.size).params)
    assert pruned.macs[1] < 0.6 * pruned.macs[0]
    (step,) = small.lineage.steps
    assert (step.stage, step.settings["ratio"], step.settings["ratios"]) == ("prune", 0.5, {"model.0": 0.0})
    assert step.numbers == {"params": float(pruned.params[1]), "macs": float(pruned.macs[1])}
    assert step.tools["torch-pruning"]
    assert (small.labels, small.size, detector.lineage.steps) == (LABELS, detector.size, ())


def test_pruning_by_latency_saves_the_share_of_the_predicted_time(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedeploy.compress.pruning import latency
    from edgedeploy.compress.pruning.latency import Predictor

    def alike(_: Any, found: Sequence[Group], *__: Any) -> Any:  # the true one takes seconds
        return SimpleNamespace(per_channel={group.name: 1e-6 for group in found})

    monkeypatch.setattr(latency, "worth", alike)
    detector = Detector(network, LABELS, (320, 320), Lineage("a.pt", "0" * 64))
    plan = Pruning(0.3, policy="latency", round_to=0, device="jetson-orin-nano")
    small, _ = prune_detector(detector, plan)
    predictor = Predictor.of("jetson-orin-nano")
    saved = 1 - predictor.seconds(small.network, detector.size) / predictor.seconds(network, detector.size)
    assert 0.3 <= saved < 0.4
    assert small.lineage.steps[0].settings["round_to"] > 0
    with pytest.raises(UsageError, match="no device"):
        prune_detector(detector, replace(plan, device="jetson-orin-nanoo"))


def test_kept_channels_that_make_no_network_are_refused(network: Any, found: tuple[Group, ...]) -> None:
    with pytest.raises(UsageError, match=r"'model\.99' is no group"):
        prune(network, {"model.99": (0,)}, found)
    with pytest.raises(UsageError, match=r"No channel of model\.0 is kept; keep at least one of its 16"):
        prune(network, {"model.0": ()}, found)
    for indices in ((0, 0), (16,), (-1,)):
        with pytest.raises(UsageError, match=r"keep of model\.0 have to be different numbers from 0 to 15"):
            prune(network, {"model.0": indices}, found)
    with pytest.raises(UsageError, match=r"equal numbers of channels; these are 3 of model\.2\.cv1\[0\], 16 of"):
        prune(network, {"model.2.cv1[0]": (0, 1, 2)}, found)
