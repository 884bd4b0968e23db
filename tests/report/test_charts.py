"""Charts: numbers are where they should be, nothing is refused silently, and one page can hold all of them."""

from __future__ import annotations

import re
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from edgedeploy.bench.outcome import outcome
from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import Unavailable
from edgedeploy.report.charts import course, distribution, quantity
from edgedeploy.report.scenarios import curve, facts
from edgedeploy.testing.fakes import fake_measurement, fake_process


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_percentiles_stand_beside_their_marks_and_refused_ones_say_what_they_need(kit: Any) -> None:
    chart = distribution(kit.made(count=100), "a")
    said = " ".join(texts(chart.svg))
    assert re.search(r"p50 +22\.\d ms", said)
    assert re.search(r"p90 +2\d\.\d ms", said)
    assert "p99 needs 459 samples" in said
    assert "p99 needs 459 samples" in chart.svg.partition("</desc>")[0]
    assert "300 samples" in chart.caption


def test_far_outliers_make_the_axis_logarithmic(kit: Any) -> None:
    calm, wild = distribution(kit.made(), "a"), distribution(kit.made(base=2e6, spike=50), "a")
    assert "logarithmic" not in " ".join(texts(calm.svg))
    assert "end to end, ms, logarithmic" in texts(wild.svg)


@pytest.mark.parametrize("draw", [distribution, course])
@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_few_samples_and_equal_samples_are_drawn_too(draw: object, count: int) -> None:
    made = fake_measurement(fake_process([20_000_000] * count, warmup=fake_process([1]).samples))
    assert callable(draw)
    chart = draw(made, "a")
    ElementTree.fromstring(chart.svg)
    assert "nan" not in chart.svg.lower().replace("nano", "")


def test_every_pass_is_there_and_warm_up_that_is_off_the_axis_is_said(kit: Any) -> None:
    chart = course(kit.made(count=100), "a")
    assert "share a column" not in chart.caption
    assert "60 of warm-up" in chart.caption
    assert "triangle: warm-up went beyond the axis, up to 54.0 ms" in chart.caption
    strokes = [path.get("d", "") for path in ElementTree.fromstring(chart.svg).iter("path")]
    assert sum(path.count("M") == 100 for path in strokes) == 3  # the samples of each process


def test_a_long_series_is_thinned_and_said_to_be() -> None:
    long = fake_measurement(fake_process([2_000_000] * 120_000 + [90_000_000] + [2_000_000] * 79_999))
    chart = course(long, "a")
    assert re.search(r"Up to 5\d\d passes share a column", chart.caption)
    assert len(chart.svg) < 60_000
    assert len(distribution(long, "a").svg) < 60_000
    heights = [
        (float(low), float(high))
        for path in ElementTree.fromstring(chart.svg).iter("path")
        for low, high in re.findall(r"M [\d.]+ ([\d.]+) L [\d.]+ ([\d.]+)(?= M)", path.get("d", ""))
    ]
    assert max(abs(high - low) for low, high in heights) > 50  # the one spike reaches from bottom to top


def test_series_stand_below_with_their_trust(kit: Any) -> None:
    said = texts(course(kit.made(), "a").svg)
    assert "clock of the gpu (sampled)" in said
    assert any(text.endswith("MHz") for text in said)
    assert any(text.endswith("°C") for text in said)


def test_a_chart_depends_on_its_record_and_name_alone(kit: Any) -> None:
    first, second = (course(kit.made(), "a").svg for _ in range(2))
    assert first == second
    other = course(kit.made(), "b").svg
    ids, others = (set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, other))
    assert ids
    assert not ids & others
    assert all(one.startswith("a-") for one in ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first)) <= {(one, "") for one in ids} | {
        ("", one) for one in ids
    }


def test_nothing_is_referred_to_outside_and_no_colour_is_fixed(kit: Any) -> None:
    for svg in (course(kit.made(), "a").svg, distribution(kit.made(), "a").svg):
        assert "http" not in svg
        assert "<style" not in svg
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--series-1)" in svg
        assert "font-family" not in svg


def test_names_are_text_and_no_formula(kit: Any) -> None:
    chart = distribution(kit.made(name=kit.nasty), "a")
    root = ElementTree.fromstring(chart.svg)
    title = root.find("title")
    assert title is not None
    assert title.text is not None
    assert "<script>" in title.text
    assert "$x$" in title.text
    assert "<script" not in chart.svg


def test_quantities() -> None:
    found = [quantity(*pair) for pair in ((0.002, "s"), (0.5, "share"), (41.5, "degC"), (0.19, "J"), (12.0, ""))]
    assert found == ["2.00 ms", "50.0%", "41.5 °C", "190 mJ", "12"]


def test_a_sustained_run_shows_when_it_became_slower() -> None:
    times = np.concatenate([np.full(600, 20_000_000), np.full(600, 30_000_000)])
    process = fake_process([int(t) for t in times + np.arange(1200) % 7 * 1000])
    found = outcome(fake_measurement(process, scenario=Scenario("sustained")))
    assert found.endurance is not None
    chart = curve(found.endurance, "a")
    assert "became slower, after 12.0 s" in chart.caption
    assert any("fastest level 20.0 ms" in text for text in texts(chart.svg))
    assert ("sustained over peak speed", "66.7%", "") in facts(found)


def test_missed_deadlines_are_counted() -> None:
    found = outcome(
        fake_measurement(fake_process([20_000_000] * 90 + [40_000_000] * 10), scenario=Scenario("paced", rate=10.0))
    )
    said = {name: (value, more) for name, value, more in facts(found)}
    assert said["missed the deadline"][0] == "0.00%"
    assert "queries" in said["missed the deadline"][1]


def test_without_matplotlib_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch, kit: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[report\]'$"):
        distribution(kit.made(), "a")
