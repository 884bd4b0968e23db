"""Causes are found: in numbers made up, and in real small graphs that ONNX Runtime runs, with times made up."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy import device
from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.facts import Bandwidth, Flops, Ops, Quantity
from edgedeploy.roofline import Cause, Roofline, Roofs, Subject, at_the_roof, causes, join
from edgedeploy.runtime import NodeTime, Profile

PEAKS: Mapping[str, Quantity] = {
    "fp32": Flops("100 GFLOP/s", "measured", "a test"),
    "int8": Ops("400 GOP/s", "measured", "a test"),
    "fp16": Flops(),
}
ROOFS = Roofs("here", "cpu", PEAKS, Bandwidth("20 GB/s", "measured", "a test"))


def node(name: str, kind: str = "Conv", flops: int = 0, size: int = 0, dtype: str = "fp32", **more: Any) -> NodeCost:
    shape = more.pop("shape", (1, 16, 8, 8))
    reads, writes = more.pop("inputs", (f"into {name}",)), more.pop("outputs", ())
    return NodeCost(name, kind, flops, size, 0, 0, dtype, shape, tuple((r, size) for r in reads), tuple(
        (w, 0) for w in writes
    ))  # fmt: skip


def time(name: str, seconds: float, kind: str = "Conv", **more: Any) -> NodeTime:
    return NodeTime(name, kind, seconds, **{"covers": (name,), **more})


def roofline(
    costs: Sequence[NodeCost] | None, times: Sequence[NodeTime], outside: float = 0.0, roofs: Roofs = ROOFS
) -> Roofline:
    whole = sum(one.seconds for one in times) + outside
    cost = None if costs is None else GraphCost(tuple(costs))
    return join(cost, Profile(tuple(times), whole, 5, "a test", outside), roofs, whole)


def found(line: Roofline, subject: Subject | None = None) -> dict[str, Cause]:
    return {cause.kind: cause for cause in causes(line, subject)}


# Nodes under their roofs


@pytest.mark.parametrize(
    ("flops", "size", "seconds", "bound"),
    [
        (10**8, 10**6, 2e-3, "compute"),  # 1 ms of arithmetic, 50 us of bytes
        (10**6, 2 * 10**7, 2e-3, "memory"),  # 10 us and 1 ms
        (10**6, 10**6, 2e-3, "slow"),  # 10 us and 50 us
        (10**4, 10**4, 10e-6, "dispatch"),  # next to nothing, in less than 20 us
        (10**6, 0, 15e-6, "compute"),  # as short, but 10 us of it are arithmetic
    ],
)
def test_what_bounds_a_node(flops: int, size: int, seconds: float, bound: str) -> None:
    (one,) = roofline([node("a", flops=flops, size=size)], [time("a", seconds)]).nodes
    assert one.bound == bound
    assert one.of_peak == pytest.approx(flops / 100e9 / seconds)
    assert one.of_bandwidth == (pytest.approx(size / 20e9 / seconds) if size else None)


@pytest.mark.parametrize(
    ("made", "bound"),
    [
        (time("ReorderInput", 1e-3, "ReorderInput", covers=()), "reformatting"),
        (time("Transpose_token_1", 1e-3, "Transpose", covers=()), "reformatting"),
        (time("c", 1e-3, "Cast", covers=()), "conversion"),
        (time("a", 1e-3, "Subgraph"), "conversion"),
        (time("unheard", 1e-3, "Whatever", covers=()), "unknown"),
    ],
)
def test_nodes_that_compute_nothing(made: NodeTime, bound: str) -> None:
    (one,) = roofline([node("a", "QuantizeLinear", flops=3, size=8)], [made]).nodes
    assert one.bound == bound


def test_an_unknown_peak_gives_no_percentage() -> None:
    line = roofline([node("a", flops=10**8, size=10**6, dtype="fp16")], [time("a", 2e-3)])
    assert line.nodes[0].of_peak is None
    assert line.nodes[0].bound == "unknown"
    assert line.of_peak is None
    assert line.of_bandwidth == pytest.approx(0.025)
    cause = found(line)["unknown"]
    assert "the peak in fp16 of here is unknown" in cause.sentence
    assert "devices probe" in cause.remedy
    assert at_the_roof(ROOFS, 10**8, 10**6, "fp16") is None
    assert at_the_roof(ROOFS, 10**8, 10**6, "fp32") == pytest.approx(1e-3)


def test_the_runtime_says_what_it_really_computed_in() -> None:
    (one,) = roofline([node("a", flops=10**8, dtype="int8")], [time("a", 2e-3, dtype="fp32", bytes=123)]).nodes
    assert (one.dtype, one.bytes) == ("fp32", 123)
    assert one.of_peak == pytest.approx(0.5)


def test_what_was_fused_is_found() -> None:
    costs = [
        node("conv", flops=100, outputs=("c",)),
        node("relu", "Relu", flops=1, inputs=("c",), outputs=("r",)),
        node("conv2", flops=200, inputs=("r",), outputs=("d",)),
        node("sigmoid", "Sigmoid", flops=2, inputs=("d",), outputs=("s",)),
        node("mul", "Mul", flops=3, inputs=("d", "s"), outputs=("y",)),
    ]
    times = [
        time("conv_nchwc", 1e-3, covers=("r",)),  # named after what its activation gives
        time("conv2", 1e-3),
        time("mul/QuickGeluFusion", 1e-3, "QuickGelu", covers=("mul",)),
    ]
    assert [one.stored for one in roofline(costs, times).nodes] == [("conv", "relu"), ("conv2",), ("sigmoid", "mul")]
    assert [one.flops for one in roofline(costs, times).nodes] == [101, 200, 5]
    plain = [time("conv", 1e-3), time("conv2", 1e-3), time("mul", 1e-3, "Mul")]
    assert [one.stored for one in roofline(costs, plain).nodes] == [("conv", "relu"), ("conv2", "sigmoid"), ("mul",)]


def test_the_profilers_own_time_is_taken_out() -> None:
    profile = Profile((time("a", 2e-3),), 4e-3, 5, "a test", 2e-3)
    line = join(GraphCost((node("a", flops=1),)), profile, ROOFS, 3e-3)
    assert line.outside == pytest.approx(1e-3)
    assert line.whole == pytest.approx(3e-3)
    assert join(None, profile, ROOFS, 1e-3).outside == 0


# Causes


def test_causes_are_ranked_and_share_the_time_out() -> None:
    costs = [node("a", flops=10**8), node("b", "Add", flops=10, size=10**7), node("c", "Softmax", flops=10, size=10)]
    times = [time("a", 2e-3), time("b", 1e-3, "Add"), time("c", 4e-3, "Softmax")]
    ranked = causes(roofline(costs, times, outside=1e-3))
    assert [cause.kind for cause in ranked] == ["slow", "compute", "memory", "dispatch"]
    assert [cause.share for cause in ranked] == pytest.approx([4 / 8, 2 / 8, 1 / 8, 1 / 8])
    assert ranked[0].nodes == ("c",)
    assert "50 % of the dense fp32 peak" in ranked[1].sentence
    assert "or int8 instead of fp32" in ranked[1].remedy
    assert "50 % of the bandwidth" in ranked[2].sentence
    assert "in no node" in ranked[3].sentence


def test_what_is_not_worth_telling_is_not() -> None:
    costs = [node("a", flops=10**8), node("b", "Add", size=10**5)]
    assert list(found(roofline(costs, [time("a", 2e-3), time("b", 1e-5, "Add")]))) == ["compute"]


@pytest.mark.parametrize(("unit", "share", "doubted"), [("cpu", 1.5, True), ("cpu", 0.9, False), ("gpu", 0.9, True)])
def test_more_than_the_peak_is_not_believed(unit: str, share: float, doubted: bool) -> None:
    roofs = dataclasses.replace(ROOFS, unit=unit)
    line = roofline([node("a", flops=10**8)], [time("a", 1e-3 / share)], roofs=roofs)
    first = causes(line)[0]
    assert (first.kind == "suspicious") == doubted
    if doubted:
        assert f"{100 * share:.0f} % of the dense fp32 peak" in first.sentence


def test_channels_that_no_kernel_likes() -> None:
    """Pruned to 13 channels: fewer operations, and not faster."""
    costs = [node("a", flops=10**6, size=10**5, shape=(1, 13, 8, 8)), node("b", flops=10**8, shape=(1, 16, 8, 8))]
    line = roofline(costs, [time("a", 2e-3), time("b", 2e-3)])
    assert "(a: 13)" in found(line)["slow"].sentence
    assert "multiple of 8" in found(line)["slow"].remedy
    assert "multiple of 8" not in found(line)["compute"].remedy


def test_what_fell_back_is_not_judged_by_its_roof() -> None:
    costs = [node("a", flops=10**8), node("b", "Softmax", flops=10, size=10)]
    line = roofline(costs, [time("a", 2e-3, unit="npu"), time("b", 3e-3, "Softmax", unit="cpu")])
    cause = found(line)["fallback"]
    assert cause.share == pytest.approx(0.6)
    assert "1 node (1 Softmax) fell back to cpu; the rest runs in npu" in cause.sentence


def test_int8_that_computes_in_float_is_said() -> None:
    costs = [node("a", flops=10**8), node("b", flops=10**8, dtype="int8")]
    times = [time("a", 2e-3, dtype="fp32"), time("b", 1e-3, dtype="int8")]
    kept = Subject("int8", ("model.0",))
    assert "int8 leaves 1 of 2 nodes" in found(roofline(costs, times), kept)["float"].sentence
    assert "model.0" in found(roofline(costs, times), kept)["float"].remedy
    assert "float" not in found(roofline(costs, times), Subject("fp32"))
    alone = found(roofline(costs[:1], times[:1]), Subject("int8"))["float"]
    assert "but all 1 node" in alone.sentence


def test_without_costs_the_shares_are_still_told() -> None:
    times = [time("c", 3e-3, "Convolution", covers=()), time("r", 1e-3, "Copy", covers=())]
    line = roofline(None, times)
    assert (line.flops, line.bytes, line.of_peak) == (None, None, None)
    assert {kind: cause.share for kind, cause in found(line).items()} == pytest.approx(
        {"unknown": 0.75, "reformatting": 0.25}
    )
    assert "not in the files" in found(line)["unknown"].sentence


def test_an_empty_profile_has_no_cause() -> None:
    assert causes(roofline([], [])) == ()


# Roofs


def test_the_roofs_of_a_profile() -> None:
    roofs = Roofs.of(device.load("raspberry-pi-5"))
    assert roofs.peak("fp32") == 153.6e9
    assert roofs.bandwidth.si == pytest.approx(17.1e9)
    assert (roofs.peak("bf16"), roofs.peak("int64"), roofs.seconds(1, "bf16")) == (None, None, None)
    assert Roofs.of(device.load("raspberry-pi-5"), "gpu").peak("fp32") is None
    with pytest.raises(UsageError, match="no unit 'npu'"):
        Roofs.of(device.load("raspberry-pi-5"), "npu")


def test_measured_bandwidth_comes_before_the_theoretical_one() -> None:
    profile = device.load("raspberry-pi-5")
    copied = dataclasses.replace(profile.memory, copy=Bandwidth("9 GB/s", "measured", "a test"))
    assert Roofs.of(dataclasses.replace(profile, memory=copied)).bandwidth.si == 9e9


def test_a_quick_probe_has_the_threads_that_it_is_told() -> None:
    from edgedeploy.bench import peaks

    found = peaks.measure(1, 0.01)
    fp32, copied = found.peak("cpu", "fp32"), found.memory.copy
    assert fp32.kind == "measured"
    assert "OPENBLAS_NUM_THREADS=1" in fp32.source
    assert copied is not None
    assert copied.si is not None
    assert peaks.usable() >= 1


def test_a_probe_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedeploy.bench import peaks

    def dead(*arguments: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess([], -9, "", "Illegal instruction\n")

    monkeypatch.setattr(subprocess, "run", dead)
    with pytest.raises(RunFailed, match="status -9: Illegal instruction"):
        peaks.measure(1, 0.01)


# Real graphs, run by ONNX Runtime; their times are those of a machine that reaches 60 % of its roofs


Make = Callable[[Any], list[Any]]


class Graph:
    """Writes an ONNX file node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", **attributes))
        return out

    def constant(self, array: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = array
        return name

    def conv(self, source: str, shape: tuple[int, int, int], groups: int = 1) -> str:
        weights = np.full((shape[1], shape[0] // groups, shape[2], shape[2]), 0.01, np.float32)
        return self.add("Conv", source, self.constant(weights), group=groups, pads=[shape[2] // 2] * 4)

    def quantized(self, source: str) -> str:
        """Through uint8 and back."""
        scale, zero = self.constant(np.float32(0.05)), self.constant(np.uint8(128))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", source, scale, zero), scale, zero)

    def save(self, path: Path, shape: Sequence[int], result: str) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path


def run(path: Path, shape: Sequence[int], result: str) -> Roofline:
    """What ONNX Runtime makes of it, node by node, with each node as fast as a machine with ``ROOFS`` would be."""
    from edgedeploy import plugins
    from edgedeploy.cost import graph_cost
    from edgedeploy.tensors import Signature, TensorSpec

    runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")(threads=1)
    signature = Signature((TensorSpec("x", "float32", tuple(shape)),), (TensorSpec(result, "float32", ("n",)),))
    profile = runtime.profile({"main": path}, {"main": signature}, {"x": np.ones(shape, np.float32)}, "main")
    cost = graph_cost(path)
    first = join(cost, profile, ROOFS, profile.seconds)
    times = []
    for made, one in zip(profile.nodes, first.nodes, strict=True):
        least = at_the_roof(ROOFS, one.flops or 0, one.bytes or 0, one.dtype)
        assert least is not None
        times.append(dataclasses.replace(made, seconds=5e-6 + least / 0.6))
    whole = sum(one.seconds for one in times)
    return join(cost, Profile(tuple(times), whole, 5, "a machine", 0.0), ROOFS, whole)


@pytest.fixture
def graph() -> Graph:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return Graph()


def test_int8_that_is_slower_for_its_conversions(graph: Graph, tmp_path: Path) -> None:
    """Operators in float between Q/DQ: a graph with int8 in it that is all borders."""
    shape, at = (1, 16, 64, 64), "x"
    for _ in range(6):
        at = graph.add("Softplus", graph.quantized(graph.add("Elu", graph.quantized(at))))
    line = run(graph.save(tmp_path / "m.onnx", shape, at), shape, at)
    cause = found(line, Subject("int8", ("block.1", "block.2")))["conversion"]
    assert cause.share > 0.3
    assert "12 QuantizeLinear" in cause.sentence
    assert "12 DequantizeLinear" in cause.sentence
    assert "2 modules kept in float (block.1, block.2)" in cause.remedy
    assert "keep_float" in cause.remedy


def test_depthwise_layers_are_bound_by_memory(graph: Graph, tmp_path: Path) -> None:
    """Fewer operations than a dense layer, and nothing gained by that: the bytes stay."""
    shape, at = (1, 32, 64, 64), "x"
    for _ in range(4):
        at = graph.conv(at, (32, 32, 3), groups=32)
    line = run(graph.save(tmp_path / "m.onnx", shape, at), shape, at)
    convolutions = [one for one in line.nodes if one.kind == "Conv"]
    assert [one.bound for one in convolutions] == ["memory"] * 4
    cause = found(line)["memory"]
    assert cause.share > 0.6
    assert "Fewer operations change nothing there" in cause.sentence
    assert "depthwise" in cause.remedy


def test_dense_layers_are_bound_by_arithmetic(graph: Graph, tmp_path: Path) -> None:
    shape = (1, 64, 32, 32)
    at = graph.conv(graph.conv("x", (64, 64, 3)), (64, 64, 3))
    line = run(graph.save(tmp_path / "m.onnx", shape, at), shape, at)
    assert causes(line)[0].kind == "compute"
    assert line.flops == 2 * 2 * 64 * 32 * 32 * 64 * 9


def test_many_small_nodes_are_dispatch(graph: Graph, tmp_path: Path) -> None:
    shape, at = (1, 8), "x"
    for i in range(30):
        at = graph.add("Sin" if i % 2 else "Cos", at)
    line = run(graph.save(tmp_path / "m.onnx", shape, at), shape, at)
    (cause,) = causes(line)
    assert (cause.kind, round(cause.share, 3)) == ("dispatch", 1.0)
    assert "30 nodes take less than 20.0 us each" in cause.sentence
    assert "export with a batch" in cause.remedy
    assert "batch" not in found(line, Subject(batch=8))["dispatch"].remedy


def test_pruning_to_odd_channels_is_named(graph: Graph, tmp_path: Path) -> None:
    shape = (1, 64, 32, 32)
    at = graph.conv(graph.conv("x", (64, 61, 3)), (61, 64, 3))
    line = run(graph.save(tmp_path / "m.onnx", shape, at), shape, at)
    cause = found(line)["compute"]
    assert "channels that are no multiple of 8" in cause.sentence
    assert ": 61)" in cause.sentence
