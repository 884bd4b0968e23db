"""Predictions: fitted on made-up machines that obey a law, refused where too little is known, marked where outside."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from edgedeploy import device as devices
from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.predict.features import Features, Roofs, features
from edgedeploy.predict.fit import fit, held_out, spread
from edgedeploy.predict.observation import Calibration, Observation, Setting, learn
from edgedeploy.predict.prediction import predict, setting_of

SETTING = Setting("board", "aarch64", "cpu", "onnxruntime", "fp32", 4)
ROOFS = Roofs("cpu", {"fp32": 1e11, "int8": 4e11}, 1e10)
#: Multiples of the roofline that the made-up machine takes by class, and seconds per node.
LAW = np.array([1.6, 6.0, 1.2, 2.5, 4e-6])


def node(flops: int, size: int, values: int = 1000, kind: str = "Conv", dtype: str = "fp32") -> NodeCost:
    return NodeCost("n", kind, flops, size // 2, size // 2, 0, dtype, (values,))


def seen(graph: str, seed: int, setting: Setting = SETTING, slower: float = 1.0, noise: float = 0.0) -> Observation:
    draw = np.random.default_rng(seed)
    dense, thin, pointwise, moving = 10 ** draw.uniform(-3, -1.5, 4)
    found = Features(dense, thin, pointwise, moving, int(draw.integers(20, 300)), 10**9, 10**8)
    seconds = float(found.row @ LAW) * slower * math.exp(draw.normal(0, noise))
    return Observation(graph, setting, ROOFS, found, seconds, "made up")


def many(count: int, noise: float = 0.0, **changed: str) -> list[Observation]:
    setting = dataclasses.replace(SETTING, **changed)  # type: ignore[arg-type]
    return [seen(f"g{i}", i, setting, noise=noise) for i in range(count)]


def graph(scale: int = 1) -> GraphCost:
    return GraphCost((node(10**9 * scale, 10**7 * scale), node(10**5 * scale, 4 * 10**6, kind="Relu")))


def profile(name: str = "raspberry-pi-5") -> devices.Device:
    return devices.load(name)


def test_a_law_is_found() -> None:
    found = fit(many(30))
    assert np.asarray(found.weights[:4]) == pytest.approx(LAW[:4], rel=0.15)
    other = seen("new", 99)
    assert found.seconds(other.features) == pytest.approx(other.seconds, rel=0.05)


def test_shares_add_up_to_one() -> None:
    shares = fit(many(10)).shares(seen("new", 99).features)
    assert set(shares) == {"dense", "thin", "pointwise", "moving", "starting nodes"}
    assert sum(shares.values()) == pytest.approx(1)


def test_an_interval_holds_what_it_says() -> None:
    """Of many made-up new graphs, about 80 % lie within the factor that the held-out errors give."""
    inside = []
    for trial in range(40):
        draw = [seen(f"g{i}", 1000 * trial + i, noise=0.1) for i in range(13)]
        factor = spread(held_out(draw[:-1], by_device=False), 0.8)
        assert factor is not None
        ratio = draw[-1].seconds / fit(draw[:-1]).seconds(draw[-1].features)
        inside.append(1 / factor <= ratio <= factor)
    assert 0.65 <= np.mean(inside) <= 0.97


def test_too_few_errors_give_no_interval() -> None:
    assert spread(np.array([0.1, -0.2, 0.1]), 0.8) is None
    assert spread(np.array([0.1, -0.2, 0.1, 0.05]), 0.8) == pytest.approx(math.exp(0.2))


def test_classes_of_nodes() -> None:
    dense, thin = node(2 * 9 * 64 * 1000, 10), node(2 * 9 * 1000, 10)
    found = features(GraphCost((dense, thin, node(5000, 10, kind="Relu"), node(0, 10**6, kind="Transpose"))), ROOFS)
    assert found.dense == pytest.approx(dense.flops / 1e11)
    assert found.thin == pytest.approx(thin.flops / 1e11)
    assert found.moving == pytest.approx(1e6 / 1e10)
    assert (found.nodes, found.bytes) == (4, 10**6 + 30)


def test_a_view_costs_nothing() -> None:
    assert features(GraphCost((node(0, 0, kind="Reshape"),)), ROOFS).nodes == 0


def test_a_lower_precision_computes_faster_and_moves_less() -> None:
    one = GraphCost((node(10**9, 10), node(0, 10**8, kind="Concat")))
    full, low = features(one, ROOFS), features(one, ROOFS, "int8")
    assert low.dense == pytest.approx(full.dense / 4)
    assert low.moving == pytest.approx(full.moving / 4)


def test_an_unknown_peak_is_not_guessed() -> None:
    with pytest.raises(Unavailable, match="dense fp16 peak of 'cpu' is unknown"):
        features(GraphCost((node(10, 10, dtype="fp16"),)), ROOFS)


def test_a_device_that_was_measured_is_predicted_from_itself() -> None:
    known = [*many(12, device="raspberry-pi-5"), *(seen(f"x{i}", i, slower=9) for i in range(12))]
    pi = setting_of(profile(), "onnxruntime", "fp32", 4)
    made = predict("new", graph(), profile(), pi, Calibration(1, tuple(known)))
    assert made.here
    assert made.fitted_on == {"raspberry-pi-5": 12}
    assert made.low < made.seconds < made.high
    assert not any("itself, the rest on" in sentence for sentence in made.outside)


def test_another_device_is_predicted_with_what_devices_differ_by() -> None:
    known = [*many(8), *(seen(f"g{i}", i, dataclasses.replace(SETTING, device="other"), slower=3) for i in range(8))]
    made = predict(
        "new", graph(), profile(), setting_of(profile(), "onnxruntime", "fp32"), Calibration(1, tuple(known))
    )
    assert not made.here
    assert made.high / made.low > 4  # the two machines differ by three, either way
    assert any("no graphs measured on raspberry-pi-5 itself, the rest on board, other" in text for text in made.outside)


@pytest.mark.parametrize(("devices", "told"), [(1, None), (2, "2 devices that were"), (3, "3 devices"), (4, None)])
def test_an_interval_from_few_devices_does_not_claim_what_it_cannot(devices: int, told: str | None) -> None:
    """The largest error of n devices holds that of the next one with n / (n + 1): four are needed for 80 %."""
    known = [one for i in range(devices) for one in many(5, device=f"board {i}")]
    made = predict(
        "new", graph(), profile(), setting_of(profile(), "onnxruntime", "fp32"), Calibration(1, tuple(known))
    )
    unsure = [text for text in made.outside if "too few devices to be sure of 80%" in text]
    assert len(unsure) == (told is not None)
    assert all(told is not None and told in text for text in unsure)


def test_only_devices_that_could_be_left_out_count() -> None:
    """Without the large one, two graphs are left, and no fit."""
    known = [*many(8, device="large"), *many(2, device="small")]
    made = predict(
        "new", graph(), profile(), setting_of(profile(), "onnxruntime", "fp32"), Calibration(1, tuple(known))
    )
    assert any("the largest error of 2, on one device that was left out" in text for text in made.outside)


def test_a_graph_is_not_predicted_from_its_own_measurement() -> None:
    known = [seen("same", 1), *many(5)]
    made = predict(
        "same", graph(), profile(), setting_of(profile(), "onnxruntime", "fp32"), Calibration(1, tuple(known))
    )
    assert made.fitted_on == {"board": 5}


def test_a_graph_of_another_size_is_outside() -> None:
    pi = setting_of(profile(), "onnxruntime", "fp32", 4)
    known = Calibration(1, tuple(many(12, device="raspberry-pi-5")))
    assert any("flops" in text for text in predict("new", graph(1000), profile(), pi, known).outside)


@pytest.mark.parametrize(
    ("name", "runtime", "said"),
    [
        ("raspberry-pi-5", "tensorrt", "has no gpu|gpu"),
        ("iphone-15", "coreml", "Nothing can be predicted|unknown"),
        ("raspberry-pi-5", "openvino", "Nothing can be predicted for raspberry-pi-5, cpu, openvino fp32"),
    ],
)
def test_what_cannot_be_predicted_is_refused(name: str, runtime: str, said: str) -> None:
    known = Calibration(1, tuple(many(12)))
    with pytest.raises(Unavailable, match=said):
        predict("new", graph(), profile(name), setting_of(profile(name), runtime, "fp32"), known)


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'int7' is no precision"):
        predict("new", graph(), profile(), setting_of(profile(), "onnxruntime", "int7"), Calibration(1, ()))


def test_what_was_learned_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    first, again = seen("g", 1), dataclasses.replace(seen("g", 1), seconds=1.5)
    learn([first])
    path = learn([again, seen("h", 2)])
    mine = [one for one in Calibration.load().observations if one.source == "made up"]
    assert sorted((one.graph, one.seconds) for one in mine if one.graph == "g") == [("g", 1.5)]
    assert [p.name for p in path.parent.iterdir()] == ["observations.json"]
    path.write_text('{"schema": 7, "observations": []}', "utf-8")
    with pytest.raises(UsageError, match="schema 7"):
        Calibration.load()


def test_what_comes_along_predicts_a_jetson() -> None:
    """The packaged observations hold public figures of three Jetsons, so that a fourth can be predicted."""
    board = profile("jetson-orin-nano")
    made = predict("new", graph(20), board, setting_of(board, "tensorrt", "fp32"))
    assert len(made.fitted_on) == 3
    assert 0 < made.low < made.seconds < made.high
    old = profile("jetson-nano")
    assert any(
        "this is sm 53" in text for text in predict("new", graph(20), old, setting_of(old, "tensorrt", "fp32")).outside
    )
