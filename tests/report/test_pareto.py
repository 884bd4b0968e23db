"""The front: nobody beats it in both, and only comparable ones are joined."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from edgedeploy.bench.scenario import Scenario
from edgedeploy.predict.observation import Setting
from edgedeploy.predict.prediction import Prediction
from edgedeploy.report.entry import Entry, rows
from edgedeploy.report.pareto import Point, chart, front, points, predicted_points


def point(latency: float, accuracy: float) -> Point:
    return Point("p", "d", "g", latency, None, accuracy, None)


@given(st.lists(st.tuples(st.floats(1e-6, 10), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_front_is_what_nobody_beats(pairs: list[tuple[float, float]]) -> None:
    every = [point(*pair) for pair in pairs]
    kept = front(every)
    assert kept
    for one in kept:
        assert not any(o.latency <= one.latency and o.accuracy > one.accuracy for o in every)
        assert not any(o.latency < one.latency and o.accuracy >= one.accuracy for o in every)
    for one in every:
        assert any(k.latency <= one.latency and k.accuracy >= one.accuracy for k in kept)


def test_other_scenarios_data_and_devices_are_not_comparable(kit: Any) -> None:
    entries = [
        Entry(kit.made(0), kit.accuracy(0.5), "fp32"),
        Entry(kit.made(1, backend="other"), kit.accuracy(0.49), "int8"),
        Entry(kit.made(2, scenario=Scenario("paced", rate=5.0)), kit.accuracy(0.49)),
        Entry(kit.made(3), kit.accuracy(0.49, "other scenes")),
        Entry(kit.made(4, device="raspberry-pi-5"), kit.accuracy(0.49)),
        Entry(kit.made(5)),
    ]
    found = points(entries, rows(entries))
    assert len(found) == 5
    groups = [one.group for one in found]
    assert groups[0] == groups[1]  # a backend is a choice
    assert len(set(groups)) == 4
    assert found[0].label == "net fake fp32 single-stream"
    assert found[1].accuracy_bounds == pytest.approx((0.48, 0.5))


def test_predictions_are_hollow_and_said_to_be(kit: Any) -> None:
    entries = [Entry(kit.made(0), kit.accuracy(0.5), "int8"), Entry(kit.made(1), kit.accuracy(0.48), "int8")]
    setting = Setting("galaxy-s25", "aarch64", "npu", "qnn", "int8")
    one = Prediction("net", setting, 0.003, 0.002, 0.004, 0.8, False, {}, {}, ())
    unknown = replace(one, graph="another")
    guessed = predicted_points([one, unknown], rows(entries))
    assert [(p.device, p.accuracy, p.predicted) for p in guessed] == [("galaxy-s25", 0.48, True)]
    drawn = chart("any", [*points(entries, rows(entries)), *guessed], "AP50-95", "a")
    assert "Hollow diamonds are predictions" in drawn.caption
    assert "(predicted)" in drawn.svg
    assert "fill:var(--paper)" in drawn.svg
    measured = chart("any", points(entries, rows(entries)), "AP50-95", "a")
    assert "predict" not in measured.svg + measured.caption
    assert "fill:var(--paper)" not in measured.svg


def test_labels_of_equal_points_do_not_cover_each_other(kit: Any) -> None:
    same = [Entry(kit.made(0, name=f"net{i}"), kit.accuracy(0.5)) for i in range(4)]
    svg = chart("d", points(same, rows(same)), "AP50-95", "a").svg
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>net\d fake', svg))
    assert len(heights) == 4
    assert min(b - a for a, b in itertools.pairwise(heights)) > 9
