"""The two engines of a benchmark on one open session: this project's loop and MLPerf's LoadGen, in turns.

    python -m benchmarks.engines BUNDLE

*edgedeploy* is the end-to-end time that single-stream records; *LoadGen* is the latency that LoadGen itself writes
down for the same steps; *bare* is a loop with two readings of the clock around the same three calls. Blocks of a few
passes take turns, in an order that turns round, so that a machine that changes its speed changes it for all; the first
passes of a block are not counted. Offline is a rate over some seconds, in turns as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import CONFIDENCE, Row, Timing, finish, limit_opencv, load_since
from edgedeploy.bench.bundle import load
from edgedeploy.bench.drive import Limits, drive
from edgedeploy.bench.interleave import BLOCK
from edgedeploy.bench.loadgen import library
from edgedeploy.bench.sampling import BatchSteps, Recorder, warm_up
from edgedeploy.bench.scenario import Engine, Scenario
from edgedeploy.bench.target import Job
from edgedeploy.bench.telemetry import read_counters

#: The engines agree where their medians differ by at most this share.
AGREEMENT = 0.02
#: What the harness may add to a call: the larger of a share of it and seconds.
SHARE, SECONDS = 0.01, 20e-6
#: Passes at the begin of a block that do not count: LoadGen takes some 40 ms to start, in which caches and clocks rest.
LEAD = 3
PASSES = LEAD + BLOCK

Times = npt.NDArray[np.float64]


def in_turns(recorder: Recorder, duration: float) -> Timing:
    """Single-stream by both engines and the bare loop, for about ``duration`` seconds."""
    engines: dict[str, Callable[[], Times]] = {
        "edgedeploy": lambda: _block(recorder, Scenario()),
        "LoadGen": lambda: _block(recorder, Scenario(engine="loadgen")),
        "bare": lambda: _bare(recorder),
    }
    before, end, found = read_counters(), time.monotonic() + duration, {name: list[Times]() for name in engines}
    names = list(engines)
    while time.monotonic() < end or len(found["bare"]) < 12:
        for name in names:
            found[name].append(engines[name]())
        names.reverse()
    seconds = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return Timing("single-stream", seconds, load_since(before))


def _block(recorder: Recorder, scenario: Scenario) -> Times:
    drive(scenario, recorder, Limits(1e-3, PASSES))
    return recorder.passes(recorder.first).seconds()[LEAD:PASSES]


def _bare(recorder: Recorder) -> Times:
    steps, clock, spent = recorder.steps, time.perf_counter_ns, [0] * PASSES
    for i in range(PASSES):
        start = clock()
        ready = steps.prepare(i)
        steps.finish(ready, steps.compute(ready))
        del ready
        spent[i] = clock() - start
    return np.asarray(spent[LEAD:]) / 1e9


def offline_ratio(recorder: Recorder, block: float, rounds: int) -> tuple[float, float, float]:
    """Samples per second that LoadGen sees over those that this project's loop sees: median and range of rounds."""
    ratios = []
    for number in range(rounds):
        rates: dict[str, float] = {}
        names: tuple[Engine, ...] = ("edgedeploy", "loadgen")
        for engine in names if number % 2 else names[::-1]:
            driven = drive(Scenario("offline", engine=engine), recorder, Limits(block, 7))
            told = {reading.name: reading.value for reading in driven.readings}
            own = (recorder.count - recorder.first) * recorder.steps.batch / driven.wall
            rates[engine] = told.get("LoadGen: samples per second") or own
        ratios.append(rates["loadgen"] / rates["edgedeploy"])
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.median(ratios)), float(low), float(high)


def rows_of(timing: Timing, offline: tuple[float, float, float]) -> list[Row]:
    """Ratios and differences against their targets."""
    ratio, low, high = timing.ratio("LoadGen", "edgedeploy")
    bare = timing.median("bare")
    above, least, most = timing.ratio("edgedeploy", "bare")
    added = (bare * (value - 1) for value in (above, least, most))
    value, smallest, largest = added
    return [
        Row("LoadGen / edgedeploy, p50", ratio, "", "at most", 1 + AGREEMENT, low, high),
        Row("LoadGen / edgedeploy, p50", ratio, "", "at least", 1 - AGREEMENT, low, high),
        Row("edgedeploy - bare, p50", value, "s", "at most", max(SECONDS, SHARE * bare), smallest, largest),
        Row("  edgedeploy, p50", timing.median("edgedeploy"), "s"),
        Row("  LoadGen, p50", timing.median("LoadGen"), "s"),
        Row("  bare, p50", bare, "s"),
        Row("LoadGen / edgedeploy, offline samples/s", offline[0], "", "", None, offline[1], offline[2]),
    ]


def main() -> int:
    """Print a row per ratio."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("bundle", type=Path, help="a NAME.edge folder or archive")
    made.add_argument("--threads", type=int, default=1, help="threads inside one call (1)")
    made.add_argument("--duration", type=float, default=60.0, help="seconds of single-stream (60)")
    made.add_argument("--block", type=float, default=2.0, help="seconds of one turn of offline (2)")
    made.add_argument("--rounds", type=int, default=6, help="turns of offline of each engine (6)")
    made.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/engines.json)")
    arguments = made.parse_args()
    library()
    limit_opencv(arguments.threads)
    target = load(Job("edgedeploy.bench.bundle:load", str(arguments.bundle), threads=arguments.threads))
    target.load_runtime()
    session = target.open()
    try:
        recorder = Recorder(BatchSteps(target, session, "main", 1), time.perf_counter_ns)
        recorder.run(0.0, 1)
        warm_up(recorder, 10.0)
        timing = in_turns(recorder, arguments.duration)
        offline = offline_ratio(recorder, arguments.block, arguments.rounds)
        facts: dict[str, Any] = dict(session.facts)
    finally:
        session.close()
    return finish(
        arguments,
        rows_of(timing, offline),
        [timing],
        {"artifact": target.digest},
        {"name": target.name, "facts": facts, "passes of a block": PASSES, "not counted": LEAD},
        ["LoadGen's multi-stream and server, which this project drives by its own loop only"],
    )


if __name__ == "__main__":
    sys.exit(main())
