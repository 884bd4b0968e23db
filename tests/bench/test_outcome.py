"""What a measurement says under its scenario: headline, MLPerf's rules, and LoadGen's early stopping."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.measurement import Measurement, Passes
from edgedeploy.bench.outcome import Outcome, early_stopping, early_stopping_needs, outcome
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.records import canonical, from_json
from edgedeploy.testing import fake_measurement, fake_process

MS = 1_000_000


def measured(scenario: Scenario, *columns: Passes, wall: float = 10.0, **changed: Any) -> Measurement:
    telemetry = Telemetry(wall=wall, resolution=5e-8)
    processes = (fake_process([], samples=passes, telemetry=telemetry) for passes in columns)
    return fake_measurement(*processes, **{"scenario": scenario, "duration": wall * len(columns), **changed})


def serial(compute: list[int]) -> Passes:
    return Passes((0,) * len(compute), tuple(compute), (0,) * len(compute))


@pytest.mark.parametrize(("q", "count"), [(0.9, 64), (0.99, 662), (0.999, 6636)])
def test_early_stopping_needs_what_mlperf_asks_for(q: float, count: int) -> None:
    assert early_stopping_needs(q) == count
    values = np.arange(count, dtype=float)
    assert early_stopping(values, q) == count - 1
    assert early_stopping(values[1:], q) == TooFew(q, count - 1, count)


def test_early_stopping_drops_as_many_as_loadgen() -> None:
    """LoadGen 6.0.17 said of 461 queries: "Would discard 30 highest latency queries." """
    assert early_stopping(np.arange(461.0), 0.9) == 461 - 1 - 30


@pytest.mark.parametrize("n", [64, 65, 461, 1024, 24_576, 270_336])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.97, 0.99])
def test_early_stopping_is_by_the_incomplete_beta_function(n: int, q: float) -> None:
    special = pytest.importorskip("scipy.special")
    found = early_stopping(np.arange(float(n)), q)
    if isinstance(found, TooFew):
        assert special.betainc(n - 1, 2, q) > 0.01
        return
    t = n - int(found)  # t - 1 are dropped
    assert special.betainc(n - t, t + 1, q) <= 0.01
    assert special.betainc(n - t - 1, t + 2, q) > 0.01


@given(st.integers(64, 3000), st.integers(0, 2**32 - 1))
def test_early_stopping_is_above_the_percentile_and_not_far(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, size=n)
    found = early_stopping(values, 0.9)
    assert not isinstance(found, TooFew)
    assert np.quantile(values, 0.9) <= found <= values.max()


def test_early_stopping_is_a_bound_with_its_confidence() -> None:
    draws = np.random.default_rng(0).random((2000, 200))
    below = sum(float(str(early_stopping(values, 0.9))) < 0.9 for values in draws)
    assert below <= 2000 * 0.01 + 3 * np.sqrt(2000 * 0.01 * 0.99)


def test_single_stream() -> None:
    found = outcome(fake_measurement())
    assert found.scenario == "single-stream"
    assert found.headline.name == "median latency"
    assert found.headline.value == pytest.approx(0.020002)
    assert found.mlperf is not None
    assert found.mlperf.name == "p90 by early stopping"
    assert found.mlperf.value == pytest.approx(0.020002)
    assert found.throughput.name == "one stream back to back"
    assert found.rules == ("MLPerf's single-stream lasts 600 s at least, and this run 9.00 s.",)
    assert found.schedule is None
    assert found.endurance is None


def test_too_few_for_mlperf() -> None:
    found = outcome(measured(Scenario(), serial([20 * MS] * 63), wall=700.0))
    assert found.mlperf is not None
    assert (found.mlperf.value, found.mlperf.needed) == (None, 64)
    assert found.rules == ("MLPerf's single-stream takes 64 queries at least, and this run has 63.",)
    assert outcome(measured(Scenario(), serial([20 * MS] * 64), wall=700.0)).rules == ()


def test_means_of_passes_have_no_early_stopping() -> None:
    assert outcome(measured(Scenario(), serial([20 * MS] * 64), mean_of=50)).mlperf is None


def test_multi_stream_is_per_query() -> None:
    scenario = Scenario("multi-stream", samples_per_query=4)
    made = measured(scenario, serial([80 * MS] * 100), batch=1)
    found = outcome(made)
    assert found.headline.value == pytest.approx(0.08)
    assert found.throughput.value == pytest.approx(50.0)
    assert made.fps == pytest.approx(50.0)
    assert found.rules == (
        "MLPerf's multi-stream lasts 600 s at least, and this run 10.0 s.",
        "MLPerf's multi-stream has 8 samples per query, and this run 4.",
        "MLPerf's multi-stream takes 662 queries at least, and this run has 100.",
    )


def test_offline_is_samples_over_the_wall_and_not_over_their_latency() -> None:
    count = 300
    began = tuple(range(0, count * 20 * MS, 20 * MS))
    passes = Passes((9 * MS,) * count, (20 * MS,) * count, (9 * MS,) * count, (), began)
    found = outcome(measured(Scenario("offline"), passes, passes, wall=6.0, batch=4))
    assert found.headline == found.throughput
    assert (found.headline.name, found.headline.unit) == ("throughput", "1/s")
    assert found.headline.value == pytest.approx(200.0)  # one after the other it would be 105
    assert found.headline.low == pytest.approx(200.0)
    assert found.mlperf is None
    assert found.rules[-1] == "MLPerf's offline takes 24576 samples at least, and this run has 2400."


def test_the_interval_of_a_throughput_shows_where_it_changed() -> None:
    began = np.concatenate([np.arange(150) * 20 * MS, 3000 * MS + np.arange(75) * 40 * MS])
    passes = Passes(*((MS,) * 225,) * 3, (), tuple(began.tolist()))
    found = outcome(measured(Scenario("offline"), passes, wall=6.0)).throughput
    assert found.low == pytest.approx(25.0, rel=0.02)
    assert found.high == pytest.approx(50.0, rel=0.02)
    assert found.value == pytest.approx(37.5)


def paced(count: int, compute: int, period: int = 33_333_333, **changed: Any) -> Measurement:
    began = tuple(i * period for i in range(count))
    passes = Passes((0,) * count, (compute,) * count, (0,) * count, (0,) * count, began)
    return measured(Scenario("paced", rate=30.0), passes, wall=count / 30, **changed)


def test_paced_counts_misses() -> None:
    found = outcome(paced(300, 20 * MS))
    assert (found.headline.name, found.headline.value) == ("missed the deadline", 0.0)
    assert found.headline.high is not None
    assert 0.005 < found.headline.high < 0.02
    assert found.throughput.value == pytest.approx(30.0)
    assert found.rules == ()
    assert outcome(paced(300, 34 * MS)).headline.value == 1.0


def test_a_pace_is_not_answered_faster_than_it_comes() -> None:
    """Each stretch lasts until the next one begins, and the last one for as many periods."""
    passes = replace(serial([MS] * 30), began=tuple(i * 100 * MS for i in range(30)))
    found = outcome(measured(Scenario("paced", rate=10.0), passes, wall=2.901)).throughput
    assert (found.low, found.value, found.high) == pytest.approx((10.0, 10.0, 10.0))


def test_more_processes_make_the_interval_of_a_throughput_no_wider() -> None:
    def noisy(processes: int) -> Measurement:
        draw = np.random.default_rng(0)
        columns = [
            serial([int(t) for t in 20 * MS * np.exp(draw.normal(0, 0.1, 600 // processes))]) for _ in range(processes)
        ]
        return measured(Scenario(), *columns)

    widths = []
    for processes in (1, 2, 6):
        found = outcome(noisy(processes)).throughput
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high / found.low - 1)
    assert max(widths) < 1.5 * widths[0]


@pytest.mark.parametrize(
    ("counts", "known"), [((29,), False), ((30,), True), ((10, 10, 9), False), ((10, 10, 10), True)]
)
def test_a_throughput_of_a_few_passes_has_no_interval(counts: tuple[int, ...], known: bool) -> None:
    found = outcome(measured(Scenario("offline"), *(serial([20 * MS] * count) for count in counts))).throughput
    assert found.value == pytest.approx(sum(counts) / (10.0 * len(counts)))
    assert (found.low is not None, found.high is not None) == (known, known)


def test_a_server_without_a_deadline_has_a_latency() -> None:
    passes = Passes((0,) * 9, (MS,) * 9, (0,) * 9, (0,) * 9, tuple(range(0, 900 * MS, 100 * MS)))
    found = outcome(measured(Scenario("server", rate=10.0), passes, wall=700.0))
    assert found.headline.name == "median latency"
    assert found.headline.value == pytest.approx(0.001)
    assert found.rules == (
        "MLPerf's server takes 662 queries at least, and this run has 9.",
        "MLPerf's server has a deadline, and this run none.",
    )


def test_a_server_that_is_late_too_often() -> None:
    waits = [0] * 980 + [50 * MS] * 20
    passes = Passes((0,) * 1000, (MS,) * 1000, (0,) * 1000, tuple(waits), tuple(range(0, 1000 * 700 * MS, 700 * MS)))
    scenario = Scenario("server", rate=1.0, deadline=0.02)
    found = outcome(measured(scenario, passes, wall=700.0))
    assert found.schedule is not None
    assert found.schedule.late == 20
    late = [rule for rule in found.rules if "miss the deadline" in rule]
    assert len(late) == 1
    assert late[0].startswith("MLPerf's server allows 1 % of the queries to miss the deadline, and ")


def test_sustained_is_the_level_at_the_end() -> None:
    found = outcome(measured(Scenario("sustained"), serial([20 * MS] * 300 + [30 * MS] * 300), wall=15.0))
    assert found.headline.name == "median latency at the end"
    assert found.headline.value == pytest.approx(0.03)
    assert found.endurance is not None
    assert found.endurance.throttled == pytest.approx(6.0)
    assert [note[:18] for note in found.notes] == ["Heat takes minutes"]


def test_a_record_that_does_not_hold_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedeploy.bench.outcome.LIMIT", 600)
    found = outcome(measured(Scenario(), serial([20 * MS] * 600), wall=12.0, duration=60.0))
    assert found.notes == ("A process keeps 600 passes at most, and ended after 12.0 s of 60.0 s.",)
    strided = Passes(*((0,) * 100, (20 * MS,) * 100, (0,) * 100), (), tuple(range(0, 10_000 * MS, 100 * MS)))
    found = outcome(measured(Scenario("sustained"), strided, strided))
    assert found.notes[1:] == (
        "The passes that were kept cover 20% of the time; the others ran and were not kept.",
        "The device cooled down between the 2 processes; run one.",
    )


@pytest.mark.parametrize("made", [fake_measurement(), paced(300, 20 * MS), paced(100, 40 * MS)])
def test_an_outcome_survives_json(made: Measurement) -> None:
    found = outcome(made)
    assert from_json(Outcome, json.loads(canonical(found.to_json())), "here") == found


def test_a_short_sustained_run_says_that_it_says_little() -> None:
    short = fake_measurement(fake_process([20_000_000] * 200), scenario=Scenario("sustained"))
    assert any("Heat takes minutes" in note for note in outcome(short).notes)
    process = fake_process([20_000_000] * 200)
    long = replace(process, telemetry=replace(process.telemetry, wall=700.0))
    found = outcome(fake_measurement(long, scenario=Scenario("sustained")))
    assert not any("Heat takes minutes" in note for note in found.notes)
