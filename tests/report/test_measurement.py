"""Measurements as rows, mappings and one line."""

from __future__ import annotations

import json
from typing import Any

from edgedeploy.bench.measurement import Measurement, Passes
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.telemetry import Reading, Telemetry
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


def measured(scenario: Scenario, count: int, compute: int, wall: float, **changed: Any) -> Measurement:
    """Passes that began at equal distances; those of a scenario with a rate did not wait."""
    began = tuple(int(i * wall * 1e9 / count) for i in range(count))
    wait = (0,) * count if scenario.rate else ()
    passes = Passes((0,) * count, (compute,) * count, (0,) * count, wait, began)
    process = fake_process([], samples=passes, telemetry=changed.pop("telemetry", Telemetry(wall, 5e-8)))
    return fake_measurement(process, scenario=scenario, duration=wall, **changed)


def test_paced() -> None:
    made = measured(Scenario("paced", rate=50.0), 500, 8 * MS, 10.0)
    assert headline(made) == (
        "net on fake, paced at 50 Hz: 0 of 500 missed the deadline (0%, 0% to 0.762%); "
        "8.00 ms (8.00 ms to 8.00 ms) from due to answered, median of 500 queries"
    )
    assert [row[0] for row in latency_rows(made)] == ["wait", "prepare", "compute", "finish", "end-to-end"]
    rows = dict(fact_rows(made))
    assert rows["scenario"] == "paced at 50 Hz"
    assert rows["answered"] == "50 (50 to 50) samples/s"
    assert rows["deadline"] == "20.0 ms"
    assert rows["late or unanswered"] == "0 and 0 of 500"
    assert rows["real-time factor"] == "0.4"
    assert rows["at this rate, and back to back"] == "8.00 ms, 30.0 ms"
    assert rows["note"].startswith("An answer takes 8.00 ms at this rate and took 30.0 ms back to back")
    assert "one stream back to back" not in rows


def test_server() -> None:
    made = measured(Scenario("server", rate=50.0), 500, 30 * MS, 10.0)
    assert headline(made) == (
        "net on fake, server at 50 Hz: 30.0 ms (30.0 ms to 30.0 ms) from due to answered, median of 500 queries"
    )
    assert dict(fact_rows(made))["p99 by early stopping"] == "needs 662 samples"


def test_offline() -> None:
    made = measured(Scenario("offline"), 500, 30 * MS, 10.0, batch=4)
    assert headline(made) == "net on fake, offline: 200 (200 to 200) samples/s, 2000 samples in 10.0 s"
    rows = fact_rows(made)
    assert "compute alone" not in dict(rows)
    assert [text for name, text in rows if name == "not as MLPerf"] == [
        "MLPerf's offline lasts 600 s at least, and this run 10.0 s.",
        "MLPerf's offline takes 24576 samples at least, and this run has 2000.",
    ]


def test_multi_stream() -> None:
    made = measured(Scenario("multi-stream", samples_per_query=8), 100, 80 * MS, 8.0)
    assert headline(made) == (
        "net on fake, multi-stream: 80.0 ms (80.0 ms to 80.0 ms) per query of 8 samples, median of 100 queries"
    )
    assert dict(fact_rows(made))["one stream back to back"] == "100 (100 to 100) samples/s"


def test_sustained() -> None:
    slow = fake_process([20 * MS] * 300 + [40 * MS] * 300, telemetry=Telemetry(18.0, 5e-8))
    made = fake_measurement(slow, scenario=Scenario("sustained"), duration=18.0)
    assert headline(made) == (
        "net on fake, sustained: 40.0 ms (40.0 ms to 40.0 ms) end to end after 18.0 s, 50% of the peak speed, "
        "slower from 6.00 s on"
    )
    again = fake_process([20 * MS] * 300 + [40 * MS] * 300 + [20 * MS] * 300, telemetry=Telemetry(24.0, 5e-8))
    assert headline(fake_measurement(again, scenario=Scenario("sustained"))).endswith(
        "100% of the peak speed, and slower for a while after 6.00 s"
    )
    rows = dict(fact_rows(made))
    assert rows["peak, and at the end"] == "20.0 ms, 40.0 ms"
    assert rows["throttled"] == "after 6.00 s"


def test_loadgen_tells_its_own_result() -> None:
    readings = (
        Reading("LoadGen: valid", 0.0, "", "exact", "not min duration satisfied"),
        Reading("LoadGen: p90", 0.021, "s", "exact", "mlperf_log_summary.txt"),
        Reading("power", 5.0, "W", "sampled", "elsewhere"),
    )
    telemetry = Telemetry(10.0, 5e-8, readings=readings)
    made = measured(Scenario(engine="loadgen"), 500, 20 * MS, 10.0, telemetry=telemetry)
    assert headline(made).startswith("net on fake, single-stream by LoadGen: 20.0 ms")
    rows = dict(fact_rows(made))
    assert rows["LoadGen: valid"] == "no: not min duration satisfied"
    assert rows["LoadGen: p90"] == "21.0 ms"
    assert "power" not in rows


def test_the_summary_has_the_outcome() -> None:
    found = json.loads(json.dumps(summary(measured(Scenario("paced", rate=50.0), 500, 8 * MS, 10.0)), allow_nan=False))
    assert found["outcome"]["headline"]["value"] == 0.0
    assert found["outcome"]["schedule"]["queries"] == 500
    assert found["latency"]["wait"]["p50"] == 0.0


def test_what_a_native_runner_does_not_tell_is_not_zero() -> None:
    process = fake_process([20_000_000] * 50, start=0.0, runtime_import=0.0, facts={"not told": "start, import"})
    native = fake_measurement(process, includes=("compute",))
    assert [row[0] for row in latency_rows(native)] == ["compute"]
    assert "of the graph alone" in headline(native)
    rows = dict(fact_rows(native))
    assert rows["start of the process"] == rows["import of the runtime"] == "not measured"
    assert rows["load"] == "50.0 ms"
