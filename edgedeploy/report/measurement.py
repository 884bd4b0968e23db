"""A measurement as rows for a table, as a plain mapping, and as one line. Pure functions: nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgedeploy.bench.endurance import CHANGE
from edgedeploy.bench.measurement import END_TO_END, PARTS, WAIT, Measurement, Part, Process
from edgedeploy.bench.outcome import Metric, Outcome, outcome
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.bench.telemetry import Reading
from edgedeploy.records import to_json
from edgedeploy.report import frames
from edgedeploy.units import show

#: What a table shows of each part.
PERCENTILES = (0.5, 0.9, 0.99)
HEADER = ("part", *(label(q) for q in PERCENTILES), "mean", "min", "max")


def headline(measurement: Measurement) -> str:
    """One line: the number to quote under the scenario, with its interval, and what it is of."""
    conditions, found = measurement.conditions, outcome(measurement)
    subject = f"{conditions.subject} on {conditions.backend}"
    if measurement.environment.emulated:
        return f"{subject} ran {measurement.count} passes on an emulated processor, whose latencies are none."
    if conditions.scenario != SINGLE_STREAM:
        subject = f"{subject}, {show_scenario(conditions.scenario)}"
    middle, count = _measured(measurement), f"median of {measurement.count}"
    pace = f"; {frames.factor_text(found)}" if conditions.frames is not None else ""
    match conditions.scenario.name:
        case "single-stream" if conditions.frames is not None:
            return f"{subject}: {middle} {_what(measurement)}, {count} frames{pace}"
        case "single-stream":
            rate = f"{measurement.fps:.4g} FPS as one stream back to back"
            return f"{subject}: {middle} {_what(measurement)}, {count} samples; {rate}"
        case "multi-stream":
            return f"{subject}: {middle} per query of {conditions.samples_per_pass} samples, {count} queries"
        case "offline":
            samples = measurement.count * conditions.samples_per_pass
            return f"{subject}: {_rate(found.throughput)}, {samples} samples in {_wall(measurement)}"
        case "sustained":
            return (
                f"{subject}: {_metric(found.headline)} end to end after {_wall(measurement)}, {_lasting(found)}{pace}"
            )
        case _:
            return f"{subject}: {_in_time(found)}{middle} from due to answered, {count} queries{pace}"


def show_scenario(scenario: Scenario) -> str:
    """As people write it: ``paced at 30 Hz``."""
    rate = "" if scenario.rate is None else f" at {scenario.rate:g} Hz"
    return f"{scenario.name}{rate}{' by LoadGen' if scenario.engine == 'loadgen' else ''}"


def latency_rows(measurement: Measurement) -> list[tuple[str, ...]]:
    """A row per part under `HEADER`; a percentile that the samples do not support says how many it needs."""
    rows = []
    for part in _parts(measurement):
        times = measurement.seconds(part)
        percentiles = (_percentile(measurement.percentile(q, part)) for q in PERCENTILES)
        ends = (_time(value) for value in (measurement.mean(part), float(times.min()), float(times.max())))
        rows.append((part, *percentiles, *ends))
    return rows


def fact_rows(measurement: Measurement) -> list[tuple[str, str]]:
    """Everything that is not a latency of a sample: start-up, memory, rates, conditions."""
    conditions, environment = measurement.conditions, measurement.environment
    threads = measurement.processes[0].facts.get("threads", conditions.threads)
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in conditions.inputs.items())
    return [
        *_start_rows(measurement),
        ("first inference", _time(_first(measurement, END_TO_END))),
        *_scenario_rows(measurement),
        ("model on disk", _size(conditions.model_size)),
        ("memory of the model", _size(measurement.model_memory)),
        ("peak memory of the process", _size(measurement.peak_memory)),
        ("samples", f"{measurement.count} in {_processes(measurement)}, batch {conditions.batch}"),
        ("graph", conditions.graph),
        ("inputs", shapes),
        ("threads", "runtime's default" if threads is None else str(threads)),
        ("runtime", f"{conditions.backend} {environment.runtime or ''}".strip()),
        ("processor", f"{environment.cpu or 'unknown'}, {environment.cores or 'unknown'} logical cores"),
    ]


def _processes(measurement: Measurement) -> str:
    count = len(measurement.processes)
    return f"{count} process{'' if count == 1 else 'es'}"


def summary(measurement: Measurement) -> dict[str, Any]:
    """The statistics in SI units, ready for JSON; a percentile that is not supported is ``None``."""
    return {
        "name": measurement.conditions.name,
        "backend": measurement.conditions.backend,
        "graph": measurement.conditions.graph,
        "created": measurement.created,
        "fingerprint": measurement.fingerprint(),
        "samples": measurement.count,
        "latency": {part: _statistics(measurement, part) for part in _parts(measurement)},
        "process_medians": list(measurement.process_medians()),
        "fps_one_stream": measurement.fps,
        "compute_throughput": measurement.compute_throughput,
        "start": _median(measurement, lambda p: p.start),
        "runtime_import": _median(measurement, lambda p: p.runtime_import),
        "load": _median(measurement, lambda p: p.load),
        "first_inference": {part: _first(measurement, part) for part in (*PARTS, END_TO_END)},
        "model_size": measurement.conditions.model_size,
        "model_memory": measurement.model_memory,
        "peak_memory": measurement.peak_memory,
        "frames": _frames(measurement),
        "outcome": outcome(measurement).to_json(),
    }


def _frames(measurement: Measurement) -> dict[str, float] | None:
    """What a pass is where it is a frame, and the seconds of sound that an answer waits for."""
    found = measurement.conditions.frames
    return None if found is None else {**to_json(found), "wait": found.wait}


def _parts(measurement: Measurement) -> tuple[Part, ...]:
    """Those that were recorded, and their sum where there are several."""
    waited = any(process.samples.wait for process in measurement.processes)
    timed = tuple(part for part in PARTS if part in measurement.conditions.includes)
    return (*([WAIT] if waited else []), *timed, *([END_TO_END] if len(timed) > 1 else []))


def _what(measurement: Measurement) -> str:
    return "end to end" if END_TO_END in _parts(measurement) else "of the graph alone"


def _start_rows(measurement: Measurement) -> list[tuple[str, str]]:
    """What a session takes to be there, as far as what ran it tells."""
    missing = str(measurement.processes[0].facts.get("not told", "")).split(", ")
    rows = (
        ("start", "start of the process", _median(measurement, lambda p: p.start)),
        ("import", "import of the runtime", _median(measurement, lambda p: p.runtime_import)),
        ("load", "load", _median(measurement, lambda p: p.load)),
    )
    return [(name, "not measured" if key in missing else _time(value)) for key, name, value in rows]


def _scenario_rows(measurement: Measurement) -> list[tuple[str, str]]:
    """Rates, and what else the scenario is about."""
    scenario, found = measurement.conditions.scenario, outcome(measurement)
    streams = measurement.conditions.frames is not None
    pace = [(name, f"{value} ({more})" if streams else value) for name, value, more in frames.facts(measurement, found)]
    if scenario == SINGLE_STREAM:
        alone = ("compute alone", f"{measurement.compute_throughput:.4g} samples/s")
        rows = [*pace, ("one stream back to back", f"{measurement.fps:.4g} FPS"), alone]
        return rows + [("note", note) for note in found.notes]
    rows = [("scenario", show_scenario(scenario)), *pace, (found.throughput.name, _rate(found.throughput))]
    if scenario.name != "offline":  # there it shares the processor with the other parts
        rows.append(("compute alone", f"{_number(measurement.compute_throughput)} samples/s"))
    if found.mlperf is not None:
        rows.append((found.mlperf.name, _metric(found.mlperf)))
    timed, long = found.schedule, found.endurance
    if timed is not None:
        if scenario.limit is not None:
            rows.append(("deadline", _time(scenario.limit)))
        rows.append(("late or unanswered", f"{timed.late} and {timed.unanswered} of {timed.queries}"))
        rows.append(("wake-up of the timer", f"{_time(timed.wake_up)} late, at most {_time(timed.wake_up_latest)}"))
        if timed.back_to_back is not None:
            rows.append(("at this rate, and back to back", f"{_time(timed.service)}, {_time(timed.back_to_back)}"))
    if long is not None:
        rows.append(("peak, and at the end", f"{_time(long.peak)}, {_time(long.sustained)}"))
        rows.append(("throttled", "not seen" if long.throttled is None else f"after {_time(long.throttled)}"))
    rows += [(reading.name, _reading(reading)) for reading in _told_by_loadgen(measurement)]
    rows += [("not as MLPerf", rule) for rule in found.rules]
    return rows + [("note", note) for note in found.notes]


def _told_by_loadgen(measurement: Measurement) -> list[Reading]:
    readings = measurement.processes[0].telemetry.readings
    return [reading for reading in readings if reading.name.startswith("LoadGen: ")]


def _reading(reading: Reading) -> str:
    if reading.name == "LoadGen: valid":
        return "yes" if reading.value else f"no: {reading.source}"
    if reading.value is None:
        return f"unknown: {reading.source}"
    return _time(reading.value) if reading.unit == "s" else f"{_number(reading.value)} {reading.unit}".strip()


def _measured(measurement: Measurement) -> str:
    """The median end to end with its interval."""
    between = measurement.interval()
    within = "" if isinstance(between, TooFew) else f" ({_time(between[0])} to {_time(between[1])})"
    return f"{_time(measurement.latency)}{within}"


def _metric(metric: Metric) -> str:
    if metric.value is None:
        return f"needs {metric.needed} samples"
    show_one = _time if metric.unit == "s" else _number
    known = metric.low is not None and metric.high is not None
    between = f" ({show_one(metric.low or 0.0)} to {show_one(metric.high or 0.0)})" if known else ""
    return f"{show_one(metric.value)}{between}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _rate(metric: Metric) -> str:
    return f"{_metric(metric)} samples/s"


def _in_time(found: Outcome) -> str:
    timed = found.schedule
    if timed is None or timed.misses is None or timed.misses_interval is None:
        return ""
    low, high = timed.misses_interval
    missed = timed.late + timed.unanswered
    return (
        f"{missed} of {timed.queries} missed the deadline ({_share(timed.misses)}, {_share(low)} to {_share(high)}); "
    )


def _share(value: float) -> str:
    return f"{100 * value:.3g}%"


def _lasting(found: Outcome) -> str:
    long = found.endurance
    if long is None:
        return ""
    when = "" if long.throttled is None else f", slower from {_time(long.throttled)} on"
    if long.throttled is not None and long.ratio > 1 / (1 + CHANGE):
        when = f", and slower for a while after {_time(long.throttled)}"
    return f"{long.ratio:.0%} of the peak speed{when}"


def _wall(measurement: Measurement) -> str:
    return _time(sum(process.telemetry.wall for process in measurement.processes))


def _statistics(measurement: Measurement, part: Part) -> dict[str, float | None]:
    percentiles = {label(q): measurement.percentile(q, part) for q in PERCENTILES}
    known = {name: None if isinstance(value, TooFew) else value for name, value in percentiles.items()}
    return {**known, "mean": measurement.mean(part)}


def _median(measurement: Measurement, value: Callable[[Process], float]) -> float:
    return float(np.median([value(process) for process in measurement.processes]))


def _first(measurement: Measurement, part: Part) -> float:
    return _median(measurement, lambda process: float(process.first.seconds(part)[0]))


def _percentile(value: float | TooFew) -> str:
    if not isinstance(value, TooFew):
        return _time(value)
    return f"only means of {value.mean_of}" if value.mean_of > 1 else f"needs {value.needed} samples"


def _time(seconds: float) -> str:
    return show(seconds, "s")


def _size(size: float | None) -> str:
    return "unknown" if size is None else show(size, "B")
