"""What channels buy on a device: predicted from shapes, and measured."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.device import load
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.facts import Features

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")
pytest.importorskip("scipy")

from edgedeploy.bench.interleave import BLOCK  # noqa: E402
from edgedeploy.compress.pruning import latency  # noqa: E402
from edgedeploy.compress.pruning.granularity import granularity, step_of  # noqa: E402
from edgedeploy.compress.pruning.groups import Group, groups  # noqa: E402
from edgedeploy.compress.pruning.latency import Predictor, WorthOptions, worth  # noqa: E402
from edgedeploy.compress.pruning.prune import prune  # noqa: E402
from edgedeploy.compress.pruning.split import skeleton  # noqa: E402
from edgedeploy.compress.pruning.timing import Clocked, Stopwatch, graph_of  # noqa: E402
from edgedeploy.compress.pruning.traced import traced_cost  # noqa: E402

SIZE = (96, 64)
#: Every kind of layer that YOLOv8 has, in a network that exports quickly.
SMALL = {
    "nc": 4,
    "backbone": [
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [48, 3, 2]],
        [-1, 1, "C2f", [48, True]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "SPPF", [64, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C2f", [32]],
        [[7, 4], 1, "Detect", ["nc"]],
    ],
}


@pytest.fixture(scope="module")
def network() -> Any:
    from edgedeploy.models.yolo import quietly

    torch.set_num_threads(1)
    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(0)
    return DetectionModel(dict(SMALL), nc=4, verbose=False).eval()


@pytest.fixture(scope="module")
def found(network: Any) -> tuple[Group, ...]:
    return groups(network)


# --- granularity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "precision", "channels"),
    [
        ("raspberry-pi-5", "fp32", 8),
        ("raspberry-pi-5", "int8", 16),
        ("intel-n100", "fp32", 8),
        ("jetson-orin-nano", "fp32", 8),
        ("jetson-orin-nano", "fp16", 8),
        ("jetson-orin-nano", "int8", 16),
    ],
)
def test_devices_like_multiples(device: str, precision: str, channels: int) -> None:
    step = step_of(device, precision)
    assert (step.channels, step.known) == (channels, True)
    assert granularity(device, precision) == channels
    assert device in step.reason


@pytest.mark.parametrize("device", ["x86-server", "jetson-nano", "iphone-15"])
def test_what_is_not_known_is_a_guess_and_says_so(device: str) -> None:
    step = step_of(device, "int8")
    assert (step.channels, step.known) == (8, False)
    assert "guess" in step.reason


def test_avx512_computes_sixteen_at_once() -> None:
    plain = load("x86-server")
    isa = Features(has=("avx", "avx2", "avx512f"), kind="measured", source="cpuinfo")
    wide = dataclasses.replace(plain, cpu=dataclasses.replace(plain.cpu, isa=isa))
    assert granularity(wide, "fp32") == 16
    with pytest.raises(UsageError, match="no precision"):
        granularity(wide, "fp31")
    with pytest.raises(UsageError, match="no device"):
        granularity("raspberry-pie")


# --- shapes --------------------------------------------------------------------------------------------------------


def test_traced_costs_are_those_of_the_exported_graph(network: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from edgedeploy.capture import to_onnx
    from edgedeploy.cost import graph_cost

    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    traced = traced_cost(network, SIZE)
    to_onnx(graph_of(network, SIZE), tmp_path / "a.onnx", 18)
    exported = graph_cost(tmp_path / "a.onnx")
    assert traced.flops == exported.flops
    assert traced.bytes == pytest.approx(exported.bytes, rel=0.002)
    assert traced.not_counted == ()
    kinds = [Counter(node.kind for node in cost.nodes if node.bytes) for cost in (traced, exported)]
    assert kinds[0] == kinds[1]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_channels_count_as_the_next_multiple(network: Any, found: tuple[Group, ...]) -> None:
    group = next(group for group in found if group.name == "model.1")  # 48 channels
    bones = skeleton(network)

    def flops(kept: int, step: int) -> int:
        return traced_cost(prune(bones, {group.name: tuple(range(kept))}, found), SIZE, step).flops

    assert flops(48, 16) == traced_cost(bones, SIZE, 16).flops > traced_cost(bones, SIZE).flops
    assert flops(47, 1) < flops(48, 1)
    # element-wise work falls with every channel, convolutions by steps
    drops = [flops(kept, 16) - flops(kept - 1, 16) for kept in (48, 40, 33)]
    assert drops[0] == drops[1] < drops[2] / 20


# --- worth ---------------------------------------------------------------------------------------------------------


def test_worth_is_predicted_for_every_group(network: Any, found: tuple[Group, ...]) -> None:
    told: list[float] = []
    options = WorthOptions(threads=None, follow=lambda _, share: told.append(share))
    worths = worth(network, found, SIZE, "raspberry-pi-5", options)
    predictor = Predictor.of("raspberry-pi-5", threads=None)
    assert list(worths) == [group.name for group in found]
    assert (worths.origin, worths.device, worths.step) == ("predicted", "raspberry-pi-5", 8)
    assert worths.whole == pytest.approx(predictor.seconds(network, SIZE))
    assert told[-1] == 1
    assert "not measured" in worths.notes[0]
    first = worths["model.1"]
    assert set(first.points) == {40, 24}
    small = prune(network, {"model.1": tuple(range(24))}, found)
    assert first.points[24] == pytest.approx(worths.whole - predictor.seconds(small, SIZE))
    assert float(first) == pytest.approx(first.points[24] / 24) == worths.per_channel["model.1"]
    assert worths["model.2.cv1[0]"] == worths["model.2.cv1[1]"]
    assert all(one.seconds > 0 for one in worths.values())
    # early layers have the larger pictures
    assert worths["model.0"].seconds > worths["model.3"].seconds


def test_what_is_not_known_of_a_device_is_not_guessed(network: Any, found: tuple[Group, ...]) -> None:
    with pytest.raises(Unavailable, match="bandwidth of intel-n100 is unknown"):
        worth(network, found, SIZE, "intel-n100")
    with pytest.raises(UsageError, match="raspberry-pi-5 is not here to be measured"):
        worth(network, found, SIZE, "raspberry-pi-5", WorthOptions(measure=True))
    with pytest.raises(UsageError, match="int8 is not measured"):
        WorthOptions(measure=True, precision="int8")
    with pytest.raises(UsageError, match="measures nothing"):
        WorthOptions(budget=0)


class Fake:
    """A stopwatch for which every channel that is gone saves what it says, and each look takes ten seconds."""

    now = 0.0

    def __init__(self, *_: object) -> None:
        self.narrow = 0

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, name: str, network: Any) -> None:
        if name == "narrow":
            self.narrow = network.model[0].conv.out_channels

    def remove(self, name: str) -> None:
        return None

    def clock(self, duration: float, reference: str) -> dict[str, Clocked]:
        Fake.now += 10.0
        saved = 0.2 if self.narrow < 32 else 0.0
        ratio = (1 - saved, 1 - saved - 0.05, 1 - saved + 0.05)
        return {
            "whole": Clocked(1.0, 0.9, 1.1, 1.0, 1.0, 1.0, 50),
            "narrow": Clocked(1 - saved, 0.5, 1.1, *ratio, 50),
        }


def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is taken to be a Raspberry Pi."""
    known = Predictor.of("raspberry-pi-5", threads=None)
    here = dataclasses.replace(known, device="this-machine")
    monkeypatch.setattr(latency.Predictor, "of", classmethod(lambda cls, *_: here))


def test_measured_worth_is_the_difference_within_a_budget(
    network: Any, found: tuple[Group, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _here(monkeypatch)
    monkeypatch.setattr(latency, "Stopwatch", Fake)
    whole = worth(network, found, SIZE, None, WorthOptions(measure=True, budget=1e4, clock=lambda: Fake.now))
    first = whole["model.0"]  # a block of its own: 16 of 32 channels save a fifth of a second
    assert (whole.origin, whole.whole, first.origin) == ("measured", 1.0, "measured")
    assert first.seconds * 16 == pytest.approx(0.2)
    assert first.low is not None
    assert first.high is not None
    assert [first.low * 16, first.high * 16] == pytest.approx([0.15, 0.25])
    assert whole["model.3"].seconds == 0  # and never below
    assert {one.origin for one in whole.values()} == {"measured"}
    short = worth(network, found, SIZE, None, WorthOptions(measure=True, budget=15, clock=lambda: Fake.now))
    origins = Counter(one.origin for one in short.values())
    assert origins["measured"] >= 1
    assert origins["predicted"] >= 1
    assert "did not suffice" in short.notes[-1]


def test_the_stopwatch_runs_networks_in_turn(network: Any, found: tuple[Group, ...]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    small = prune(network, {group.name: (0,) for group in found}, found)
    with Stopwatch(SIZE, threads=1) as watch:
        watch.add("whole", network)
        watch.add("small", small)
        clocked = watch.clock(0.05, "whole")
        watch.remove("small")
        assert set(watch.clock(0.01, "whole")) == {"whole"}
    assert clocked["whole"].ratio == 1.0
    one = clocked["small"]
    assert (one.ratio is None) == (one.passes < 7 * BLOCK)  # so many turns does the interval of a median need
    assert one.low <= one.seconds <= one.high
    assert one.passes >= 3 * BLOCK
