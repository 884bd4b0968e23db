"""Markdown and CSV: the numbers of the page, in forms that nothing breaks out of."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.predict.observation import Setting
from edgedeploy.predict.prediction import Prediction
from edgedeploy.report.entry import Entry, rows
from edgedeploy.report.markdown import HEADER, escaped, markdown
from edgedeploy.report.tables import COLUMNS, table
from edgedeploy.testing.fakes import fake_measurement, fake_process
from edgedeploy.units import show


def test_markdown_has_a_row_and_the_doubts_of_each(kit: Any) -> None:
    entries = [Entry(kit.made(0), kit.accuracy(0.48), "int8"), Entry(kit.made(1, drift=0.3))]
    text = markdown(entries, "today")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert all(line.count(" | ") == len(HEADER) - 1 for line in lines)
    first, second = rows(entries)
    assert isinstance(first.p50, float)
    assert show(first.p50, "s") in lines[2]
    assert "AP50-95 0.4800; -0.0200 from FP32 (90%: -0.0300 to -0.0100)" in lines[2]
    assert first.doubts == ()
    assert second.doubts
    assert text.count("\n- ") == len(second.doubts)
    assert f"- {escaped(second.doubts[0])}" in text


def test_what_markdown_would_act_on_is_escaped(kit: Any) -> None:
    text = markdown([Entry(kit.made(0, name=kit.nasty, backend="a|b\nc"))], "today")
    assert "<script" not in text.replace("\\<", "")
    assert "a\\|b c" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert text.encode("utf-8")


def test_markdown_marks_predictions(kit: Any) -> None:
    one = Prediction("net", Setting("s25", "aarch64", "npu", "qnn", "int8"), 3e-3, 2e-3, 4e-3, 0.8, False, {}, {}, ())
    text = markdown([Entry(kit.made(0))], "today", [one])
    assert "Nothing below was measured." in text
    assert "about 3.00 ms | 2.00 ms to 4.00 ms (80%)" in text


def test_csv_is_in_si_and_empty_where_nothing_is_known(kit: Any) -> None:
    entries = [Entry(kit.made(0), kit.accuracy(0.48), "int8"), Entry(fake_measurement(fake_process([20_000_000] * 50)))]
    found = list(csv.DictReader(io.StringIO(table(entries))))
    assert [tuple(one) for one in found] == [COLUMNS, COLUMNS]
    first, row = found[0], rows(entries)[0]
    assert float(first["p50_s"]) == row.p50
    assert not isinstance(row.p50_interval, TooFew)
    assert (float(first["p50_low_s"]), float(first["p50_high_s"])) == row.p50_interval
    assert float(first["p99_s"]) == row.p99
    assert float(first["energy_per_inference_j"]) == pytest.approx(0.19)
    assert first["accuracy_difference_low"].lstrip("'") == first["accuracy_difference_low"]
    assert first["throughput_name"] == "one stream back to back"
    second = found[1]
    assert (second["p99_s"], second["accuracy"], second["energy_per_inference_j"], second["target"]) == ("", "", "", "")
    assert second["p99_needs_samples"] == "459"
    assert float(second["p90_s"]) == pytest.approx(0.020002)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum(a)", "\tx"])
def test_a_spreadsheet_calculates_nothing(name: str, kit: Any) -> None:
    found = next(csv.DictReader(io.StringIO(table([Entry(kit.made(0, name=name))]))))
    assert found["model"] == f"'{name}"


def test_each_measurement_is_doubted_in_the_light_of_those_before(kit: Any) -> None:
    calm = kit.made(0, created="2025-01-01", digest="d" * 64)
    slower = kit.made(1, base=30e6, created="2025-01-02", digest="d" * 64)
    first, second = rows([Entry(slower), Entry(calm)])
    assert any("last 2 runs" in doubt for doubt in first.doubts)
    assert second.doubts == ()
