"""What a measurement says under its scenario: one headline with its interval, and what it may not be quoted for.

Rules are those of MLPerf Inference (``mlperf.conf`` of LoadGen); a run that is shorter than they ask for is of use all
the same, and says so. `early_stopping` is LoadGen's estimate of a percentile: an upper bound with 99 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.endurance import Endurance, endurance
from edgedeploy.bench.measurement import Measurement, Passes, Process
from edgedeploy.bench.sampling import LIMIT
from edgedeploy.bench.scenario import MULTI_STREAM_SAMPLES, TIMED, Name
from edgedeploy.bench.schedule import Schedule, notes, schedule
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.records import to_json
from edgedeploy.units import show

Times = npt.NDArray[np.float64]

#: Seconds that every scenario of MLPerf lasts at least, and samples that its offline has.
MLPERF_DURATION, MLPERF_SAMPLES = 600.0, 24_576
#: Seconds that a sustained run has to last before it says something of heat.
SUSTAINED = 600.0
#: The percentile that MLPerf reports of a scenario.
MLPERF_PERCENTILE: dict[Name, float] = {"single-stream": 0.9, "multi-stream": 0.99, "server": 0.99}
#: Stretches of consecutive passes, over all processes, whose rates give the interval of a throughput (more where there
#: are more processes), and passes of one at least: six independent values have the median of what they are drawn from
#: between them with 1 - 2 * 0.5**6 = 97 %.
STRETCHES, SHORTEST = 6, 5


@dataclass(frozen=True)
class Metric:
    """A number in SI ``unit`` ("" for shares) with its interval; ``None`` where it takes ``needed`` samples."""

    name: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a measurement says under its scenario.

    Args:
        scenario: its name.
        headline: the number to quote.
        mlperf: MLPerf's percentile of the scenario by `early_stopping`, where it has one.
        throughput: samples per second; its name says of what kind.
        rules: what MLPerf asks for and this run has not; empty too where MLPerf has no such scenario.
        notes: what else has to be known.
        real_time_factor: see `Measurement.real_time_factor`, with the range that stretches of the run have.
    """

    scenario: Name
    headline: Metric
    mlperf: Metric | None
    throughput: Metric
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schedule: Schedule | None = None
    endurance: Endurance | None = None
    real_time_factor: Metric | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of all of it."""
        plain: dict[str, Any] = to_json(self)
        return plain


def outcome(measurement: Measurement) -> Outcome:
    """What ``measurement`` says under the scenario that it was taken in."""
    scenario = measurement.conditions.scenario
    timed = schedule(measurement) if scenario.name in TIMED else None
    long = endurance(measurement) if scenario.name == "sustained" else None
    throughput = _throughput(measurement)
    headline = _median(measurement)
    if scenario.name == "offline":
        headline = throughput
    elif scenario.name == "paced" and timed is not None and timed.misses_interval is not None:
        headline = Metric("missed the deadline", timed.misses, "", *timed.misses_interval)
    elif long is not None:
        headline = Metric("median latency at the end", long.sustained, "s", *long.sustained_range)
    return Outcome(
        scenario=scenario.name,
        headline=headline,
        mlperf=_mlperf(measurement),
        throughput=throughput,
        rules=_rules(measurement, timed),
        notes=(*_kept(measurement), *(notes(scenario.rate or 0.0, timed) if timed else ()), *_unpaced(measurement)),
        schedule=timed,
        endurance=long,
        real_time_factor=_real_time_factor(measurement),
    )


def early_stopping(values: Sequence[float] | Times, q: float, confidence: float = 0.99) -> float | TooFew:
    """LoadGen's early-stopping estimate of the ``q`` quantile: an upper bound that holds with ``confidence``.

    With t samples at or above the estimate and h = n - t below it, I(q; h, t + 1) <= 1 - confidence, where I is the
    regularised incomplete beta function; the estimate drops the t - 1 highest of the n samples, for the largest such t,
    and is the highest of what is left. It takes t = 1 at least.
    """
    found = _droppable(len(values), q, confidence)
    if found < 1:
        return TooFew(q, len(values), early_stopping_needs(q, confidence))
    return float(np.sort(np.asarray(values))[len(values) - found])


def early_stopping_needs(q: float, confidence: float = 0.99) -> int:
    """The smallest number of samples that `early_stopping` gives an estimate for: 64 for p90, 662 for p99."""
    low, high = 1, 2
    while _droppable(high, q, confidence) < 1:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _droppable(middle, q, confidence) >= 1 else (middle, high)
    return high


def _droppable(n: int, q: float, confidence: float) -> int:
    """The largest t with I(q; n - t, t + 1) = P(binomial(n, 1 - q) <= t) <= 1 - confidence; -1 where there is none."""
    logarithm, total, t = n * math.log(q), 0.0, 0
    while t <= n:
        total += math.exp(logarithm)
        if total > 1 - confidence:
            break
        logarithm += math.log((n - t) / (t + 1)) + math.log1p(-q) - math.log(q) if t < n else 0.0
        t += 1
    return t - 1


def _median(measurement: Measurement) -> Metric:
    between = measurement.interval()
    low, high = (None, None) if isinstance(between, TooFew) else between
    return Metric("median latency", measurement.median(), "s", low, high)


def _mlperf(measurement: Measurement) -> Metric | None:
    q = MLPERF_PERCENTILE.get(measurement.conditions.scenario.name)
    if q is None or measurement.conditions.mean_of > 1:
        return None
    found = early_stopping(measurement.seconds(), q)
    name = f"{label(q)} by early stopping"
    return Metric(name, None, "s", needed=found.needed) if isinstance(found, TooFew) else Metric(name, found, "s")


def _throughput(measurement: Measurement) -> Metric:
    """Samples per second: of passes back to back, or else over the wall clock."""
    name = {"offline": "throughput", "server": "answered", "paced": "answered"}.get(
        measurement.conditions.scenario.name, "one stream back to back"
    )
    back_to_back = name == "one stream back to back"
    walls = [_wall(measurement, process) for process in measurement.processes]
    value = 1 / measurement.mean() if back_to_back else measurement.count / max(1e-9, sum(walls))
    stretches = math.ceil(STRETCHES / len(walls))  # more processes are to make the interval no wider
    rates: list[float] = []
    for process, wall in zip(measurement.processes, walls, strict=True):
        rates += _rates(process.samples, stretches, None if back_to_back else wall)
    samples = measurement.conditions.samples_per_pass
    if len(rates) < STRETCHES:
        return Metric(name, samples * value, "1/s")
    return Metric(name, samples * value, "1/s", samples * min(value, *rates), samples * max(value, *rates))


def _real_time_factor(measurement: Measurement) -> Metric | None:
    value, period = measurement.real_time_factor, measurement.conditions.period
    if value is None or period is None:
        return None
    stretches = math.ceil(STRETCHES / len(measurement.processes))
    each = (np.array_split(process.samples.own_seconds(), stretches) for process in measurement.processes)
    parts = [part for split in each for part in split]
    if min(map(len, parts)) < SHORTEST:
        return Metric("real-time factor", value, "")
    factors = [value, *(float(part.mean()) / period for part in parts)]
    return Metric("real-time factor", value, "", min(factors), max(factors))


def _unpaced(measurement: Measurement) -> list[str]:
    """Of frames back to back."""
    frames, scenario = measurement.conditions.frames, measurement.conditions.scenario
    if frames is None or scenario.name == "paced":
        return []
    return [
        f"Frames were taken back to back. A device that waits {_time(frames.period)} for each has colder caches and "
        f"lower clocks: measure it with --scenario paced --rate {1 / frames.period:g}Hz."
    ]


def _wall(measurement: Measurement, process: Process) -> float:
    """Seconds that the passes of ``process`` took in all; of ``paced``, the last query has its period, too."""
    scenario, wall = measurement.conditions.scenario, process.telemetry.wall
    return max(wall, len(process.samples) / (scenario.rate or 1.0)) if scenario.name == "paced" else wall


def _rates(passes: Passes, stretches: int, wall: float | None) -> list[float]:
    """Passes per second of stretches of consecutive passes; none where there are too few.

    Over the time from the begin of one stretch to that of the next, the last of which ends at ``wall``; of passes back
    to back (``None``), over what they took.
    """
    if len(passes) < stretches * SHORTEST:
        return []
    blocks = np.array_split(np.arange(len(passes)), stretches)
    if wall is None:
        seconds = passes.seconds()
        return [len(block) / max(1e-9, float(seconds[block].sum())) for block in blocks]
    began = passes.times()
    ends = [*(began[block[0]] for block in blocks[1:]), wall]
    spans = [float(end - began[block[0]]) for block, end in zip(blocks, ends, strict=True)]
    return [len(block) / max(1e-9, span) for block, span in zip(blocks, spans, strict=True)]


def _kept(measurement: Measurement) -> list[str]:
    """What of the run the record does not hold."""
    told, processes = [], measurement.processes
    duration = measurement.conditions.duration / len(processes)
    full = [process for process in processes if len(process.samples) >= LIMIT]
    if full and full[0].telemetry.wall < 0.95 * duration:
        told.append(
            f"A process keeps {LIMIT} passes at most, and ended after {_time(full[0].telemetry.wall)} "
            f"of {_time(duration)}."
        )
    if measurement.conditions.scenario.name == "sustained":
        wall = sum(process.telemetry.wall for process in processes)
        if wall < SUSTAINED:
            told.append(
                f"Heat takes minutes: a sustained run lasts {_time(SUSTAINED)} at least, and this one {_time(wall)}. "
                "What it says of throttling is noise."
            )
        kept = sum(float(process.samples.own_seconds().sum()) for process in processes)
        share = kept / max(1e-9, sum(process.telemetry.wall for process in processes))
        if share < 0.6:  # of two passes one was left out, or more
            told.append(f"The passes that were kept cover {share:.0%} of the time; the others ran and were not kept.")
        if len(processes) > 1:
            told.append(f"The device cooled down between the {len(processes)} processes; run one.")
    return told


def _rules(measurement: Measurement, timed: Schedule | None) -> tuple[str, ...]:
    scenario = measurement.conditions.scenario
    if scenario.name in ("paced", "sustained"):
        return ()
    found, wall = [], sum(process.telemetry.wall for process in measurement.processes)
    if wall < MLPERF_DURATION:
        found.append(f"lasts {_time(MLPERF_DURATION)} at least, and this run {_time(wall)}")
    if scenario.name == "multi-stream" and scenario.samples_per_query != MULTI_STREAM_SAMPLES:
        found.append(f"has {MULTI_STREAM_SAMPLES} samples per query, and this run {scenario.samples_per_query}")
    q = MLPERF_PERCENTILE.get(scenario.name)
    if q is not None and measurement.count < early_stopping_needs(q):
        found.append(f"takes {early_stopping_needs(q)} queries at least, and this run has {measurement.count}")
    samples = measurement.count * measurement.conditions.samples_per_pass
    if scenario.name == "offline" and samples < MLPERF_SAMPLES:
        found.append(f"takes {MLPERF_SAMPLES} samples at least, and this run has {samples}")
    if timed is not None and timed.misses is None:
        found.append("has a deadline, and this run none")
    elif timed is not None and timed.misses is not None and timed.misses > 1 - MLPERF_PERCENTILE["server"]:
        found.append(f"allows 1 % of the queries to miss the deadline, and {100 * timed.misses:.3g} % of these did")
    return tuple(f"MLPerf's {scenario.name} {what}." for what in found)


def _time(seconds: float) -> str:
    return show(seconds, "s")
