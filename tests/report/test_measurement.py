"""Measurements as rows, mappings and one line."""

from __future__ import annotations

import json

from edgedeploy.report.measurement import HEADER, fact_rows, headline, latency_rows, summary
from edgedeploy.testing import fake_measurement, fake_process

MS = 1_000_000


def test_a_row_per_part_and_refused_percentiles_say_what_they_need() -> None:
    rows = latency_rows(fake_measurement(fake_process([20 * MS] * 50)))
    assert HEADER == ("part", "p50", "p90", "p99", "mean", "min", "max")
    assert [row[0] for row in rows] == ["prepare", "compute", "finish", "end-to-end"]
    assert rows[1] == ("compute", "20.0 ms", "20.0 ms", "needs 459 samples", "20.0 ms", "20.0 ms", "20.0 ms")


def test_the_headline_is_the_median_and_names_the_rate() -> None:
    assert headline(fake_measurement()) == (
        "net on fake: 20.0 ms (20.0 ms to 20.0 ms) end to end, median of 600 samples; 50 FPS as one stream back to back"
    )


def test_facts() -> None:
    rows = dict(fact_rows(fake_measurement()))
    assert rows["load"] == "50.0 ms"
    assert rows["first inference"] == "40.0 ms"
    assert rows["memory of the model"] == "28.6 MiB"
    assert rows["inputs"] == "image 1x3x64x64"


def test_the_summary_is_plain_json_in_si() -> None:
    made = fake_measurement(fake_process([20 * MS] * 50))
    found = json.loads(json.dumps(summary(made), allow_nan=False))
    assert found["latency"]["compute"] == {"p50": 0.02, "p90": 0.02, "p99": None, "mean": 0.02}
    assert found["fingerprint"] == made.fingerprint()
    assert found["load"] == 0.05
