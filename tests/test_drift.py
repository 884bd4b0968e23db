"""Where a drift begins, on numbers made for it; and what an ONNX session shows of its inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.causes import permuted
from edgedeploy.drift import ModuleDrift, Watch, begins, merged, noisiest
from edgedeploy.runtime import TAP, Outputs

SHAPE = (1, 4, 8, 8)


def noise(seed: int = 0) -> Any:
    made: Any = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    return made


def rows(*ratios: float) -> list[ModuleDrift]:
    return [ModuleDrift(f"m{i}", ratio) for i, ratio in enumerate(ratios)]


# Where it begins


def test_in_fp32_the_first_below_the_expected_ratio_is_bad() -> None:
    first, before, sharp = begins(rows(130, 125, 20, 5, 124), "fp32")
    assert (first and first.module, before and before.module, sharp) == ("m2", "m1", True)
    assert begins(rows(130, 90, 61), "fp32")[0] is None


@pytest.mark.parametrize(
    ("precision", "ratios", "module", "sharp"),
    [
        ("int8", (41, 38, 36, 35, 12, 10, 14), "m4", True),
        ("int8", (41, 38, 36, 33, 31, 29, 27), "m3", False),
        ("int8", (3, 2, 2, 1), "m0", True),
        ("int8", (41, 15, 14, -20, 13), "m3", True),
        ("fp16", (64, 60, 59, 30, 29), "m3", True),
    ],
)
def test_a_lower_precision_is_bad_where_it_falls_most(
    precision: str, ratios: tuple[float, ...], module: str, sharp: bool
) -> None:
    first, before, step = begins(rows(*ratios), precision)
    assert (first and first.module, step) == (module, sharp)
    assert before is None or (first is not None and before.snr > first.snr)


def test_what_is_not_finite_is_bad_before_anything_else() -> None:
    modules = [ModuleDrift("a", 20), ModuleDrift("b", -200, nonfinite=3), ModuleDrift("c", -200, nonfinite=64)]
    first, before, _ = begins(modules, "fp16")
    assert (first, before) == (modules[1], modules[0])


def test_no_fall_is_no_beginning() -> None:
    assert begins(rows(70, 65, 61), "fp16") == (None, None, False)
    assert begins((), "int8") == (None, None, False)


def test_the_noisiest_are_those_at_which_the_ratio_falls() -> None:
    modules = rows(40, 37, 30, 31, 25, 26)
    assert [row.module for row in noisiest(modules, "int8", 2)] == ["m2", "m4"]


@given(st.lists(st.floats(-200, 200), max_size=12), st.sampled_from(["fp32", "fp16", "int8"]))
def test_whatever_the_ratios_the_last_good_comes_before_the_first_bad(ratios: list[float], precision: str) -> None:
    modules = rows(*ratios)
    first, before, _ = begins(modules, precision)
    if first is not None and before is not None:
        assert modules.index(before) < modules.index(first)
        assert before.snr > first.snr


# Watching


def watched(reference: Outputs, found: Outputs) -> dict[str, ModuleDrift]:
    watch = Watch()
    watch.add(reference, found)
    return {row.module: row for row in watch.rows()}


def test_values_at_the_end_of_a_range_are_clipped() -> None:
    reference = {TAP + "a": noise()}
    assert watched(reference, {TAP + "a": reference[TAP + "a"].clip(-1, 1)})["a"].clipped == pytest.approx(
        0.32, abs=0.1
    )


def test_noise_and_zeros_are_not_clipped() -> None:
    reference = {TAP + "a": noise(), TAP + "b": noise(1)}
    found = {TAP + "a": reference[TAP + "a"] * 0.5 + noise(2) * 0.1, TAP + "b": np.zeros(SHAPE, np.float32)}
    assert all(row.clipped < 0.01 for row in watched(reference, found).values())


def test_what_is_not_finite_is_counted_where_the_reference_is() -> None:
    value = noise()
    broken = value.copy()
    broken[0, 0, 0, :3] = [np.inf, -np.inf, np.nan]
    row = watched({TAP + "a": value}, {TAP + "a": broken})["a"]
    assert (row.nonfinite, row.clipped, row.snr) == (3, 0.0, -200.0)
    assert watched({TAP + "a": broken}, {TAP + "a": broken})["a"].nonfinite == 0


def test_a_layer_that_was_fused_with_the_next_is_held_against_that() -> None:
    conv = noise()
    reference = {TAP + "conv": conv, TAP + "relu": np.maximum(conv, 0)}
    row = watched(reference, {TAP + "conv": np.maximum(conv, 0) + noise(3) * 0.01})["conv"]
    assert row.fused == "relu"
    assert row.snr > 30


def test_other_shapes_are_passed_over() -> None:
    assert watched({TAP + "a": noise()}, {TAP + "a": noise()[:, :2], TAP + "b": noise()}) == {}


def test_the_worst_sample_counts() -> None:
    watch, value = Watch(), noise()
    for error in (0.001, 0.1, 0.01):
        watch.add({TAP + "a": value}, {TAP + "a": value + error * noise(4)})
    (row,) = watch.rows()
    assert row.snr == pytest.approx(20, abs=3)


def test_taps_of_network_and_graph_come_in_one_order() -> None:
    eager = {name: noise(i) for i, name in enumerate(["a", "a.bn", "b", "c"])}
    graph = {"a.bn": eager["a.bn"], "add": noise(9), "b": noise(8), "c": eager["c"]}
    whole = merged(eager, graph)
    assert list(whole) == ["a", "a.bn", "add", "b", "c"]
    assert whole["b"] is graph["b"]  # the graph has folded something into it
    assert merged(eager, {}) == eager
    assert list(merged({}, graph)) == list(graph)


# Permutations


def test_swapped_channels_are_said() -> None:
    value = noise()
    pairs = [({"y": value}, {"y": value[:, [1, 0, 2, 3]] + 0.001 * noise(5)})]
    assert permuted(pairs) == "channels of 'y' are swapped: 0 is in the place of 1, 1 is in the place of 0"


def test_noise_is_no_permutation() -> None:
    assert permuted([({"y": noise()}, {"y": noise(1)})]) == ""
    assert permuted([({"y": noise()}, {"y": noise() + 0.01 * noise(1)})]) == ""
    assert permuted([({"y": noise(), "z": noise(1)}, {"y": noise(), "z": noise(2)})]) == ""
    same = np.ones(SHAPE, np.float32)
    assert permuted([({"y": same}, {"y": same * np.nan})]) == ""


# Inside ONNX Runtime


def test_an_onnx_session_shows_modules_and_the_same_outputs(aerial: Path, tmp_path: Path) -> None:
    for package in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from edgedeploy import plugins
    from edgedeploy.capture import to_onnx
    from edgedeploy.compare import snr
    from edgedeploy.drift import EagerTaps
    from edgedeploy.model import InputShape, load

    model = load(aerial, InputShape(size=(64, 64)))
    graph = model.graphs["main"]
    to_onnx(graph, tmp_path / "main.onnx", 18)
    runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")(threads=1)
    arguments = {"main": tmp_path / "main.onnx"}, {"main": graph.signature}
    inputs = {"images": np.random.default_rng(0).random((1, 3, 64, 64), np.float32)}
    shown = runtime.open_tapped(*arguments).run(inputs)
    plain = runtime.open(*arguments).run(inputs)
    assert snr(plain["detections"], shown["detections"]) > 100
    eager = EagerTaps(model).run(inputs)
    both = [key for key in shown if key in eager]
    assert {TAP + "images", TAP + "stem.2", TAP + "stages.2.1", TAP + "heads.0.box.1"} <= set(both)
    assert TAP + "stem" not in shown  # the very tensor of stem.2
    assert len(both) > 50
    assert min(snr(eager[key], shown[key]) for key in both) > 90
