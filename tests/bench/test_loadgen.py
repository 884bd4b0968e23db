"""LoadGen as the engine: its summary read from texts, and the real one over steps that sleep."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from edgedeploy.bench.drive import Limits, drive
from edgedeploy.bench.loadgen import Summary, library
from edgedeploy.bench.sampling import Recorder
from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import RunFailed, Unavailable

SINGLE = """
Scenario : SingleStream
90.0th percentile latency (ns) : 1097606
Result is : VALID
  Min duration satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Would discard 30 highest latency queries.
 * Early stopping 90.0th percentile estimate: 1106609
 * Not enough queries processed for 99.0th percentile
 early stopping estimate (would need to process at
 least 662 total queries).

50.00 percentile latency (ns)   : 1078889
99.90 percentile latency (ns)   : 2823894
"""

OFFLINE = """
Scenario : Offline
Samples per second: 923.51
Result is : INVALID
  Min duration satisfied : NO
  Min queries satisfied : Yes
Recommendations:
 * Increase expected QPS so that
   more is issued.

50.00 percentile latency (ns)   : 239519742
"""


def test_a_valid_summary() -> None:
    found = Summary.read(SINGLE)
    assert (found.valid, found.reasons) == (True, ())
    assert {reading.name: reading.value for reading in found.readings} == {
        "LoadGen: valid": 1.0,
        "LoadGen: p90": 0.001097606,
        "LoadGen: p90 by early stopping": 0.001106609,
        "LoadGen: p50": 0.001078889,
        "LoadGen: p99.9": 0.002823894,
    }


def test_an_invalid_one_says_why_and_offline_has_no_latency() -> None:
    found = Summary.read(OFFLINE)
    assert not found.valid
    assert found.reasons == ("not min duration satisfied", "Increase expected QPS so that more is issued.")
    assert [(reading.name, reading.value) for reading in found.readings] == [
        ("LoadGen: valid", 0.0),
        ("LoadGen: samples per second", 923.51),
    ]
    assert found.readings[0].source == "; ".join(found.reasons)


def test_a_summary_without_a_result() -> None:
    with pytest.raises(RunFailed, match="LoadGen left no result"):
        Summary.read("Scenario : Offline\n")


def test_loadgen_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[loadgen\]'"):
        library()


class Sleeping:
    """Steps of about 2 ms; `compute` fails at call number ``fails``."""

    def __init__(self, batch: int = 1, fails: int = 0) -> None:
        self.batch, self.fails, self.computed = batch, fails, 0
        self.seen: list[int] = []

    def prepare(self, index: int) -> int:
        time.sleep(0.0004)
        self.seen.append(index)
        return index

    def compute(self, ready: int) -> int:
        self.computed += 1
        if self.computed == self.fails:
            raise ValueError("vendor")
        time.sleep(0.001)
        return ready

    def finish(self, ready: int, outputs: int) -> None:
        time.sleep(0.0004)


def run(name: Any, steps: Sleeping, duration: float = 0.2) -> tuple[Recorder, dict[str, float | None]]:
    pytest.importorskip("mlperf_loadgen")
    recorder = Recorder(steps, time.perf_counter_ns)
    recorder.run(0.0, 10)
    driven = drive(Scenario(name, engine="loadgen"), recorder, Limits(duration, 7))
    assert driven.wall > 0
    return recorder, {reading.name: reading.value for reading in driven.readings}


def test_single_stream_through_loadgen() -> None:
    steps = Sleeping()
    recorder, readings = run("single-stream", steps)
    passes = recorder.passes(recorder.first)
    assert len(passes) >= 7
    assert len(passes.wait) == len(passes)
    assert min(passes.wait) >= 0
    assert len(set(steps.seen[10:])) > 7  # LoadGen picks the samples
    assert readings["LoadGen: valid"] == 1.0
    times = sorted(passes.seconds())
    median = readings["LoadGen: p50"]
    assert median is not None
    assert min(abs(time - median) for time in times) < 1e-8  # the record has LoadGen's own latencies
    assert times[len(times) // 2 - 2] <= median <= times[len(times) // 2 + 2]


@pytest.mark.parametrize("batch", [1, 4])
def test_offline_through_loadgen(batch: int) -> None:
    recorder, readings = run("offline", Sleeping(batch))
    passes = recorder.passes(recorder.first)
    assert passes.wait == ()
    rate = readings["LoadGen: samples per second"]
    assert rate is not None
    assert rate > 0
    assert set(readings) == {"LoadGen: valid", "LoadGen: samples per second"}


@pytest.mark.parametrize("name", ["single-stream", "offline"])
def test_a_failure_passes_through_loadgen(name: Any) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="vendor"):
        run(name, Sleeping(fails=30))
    assert threading.active_count() == before
