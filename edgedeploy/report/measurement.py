"""A measurement as rows for a table, as a plain mapping, and as one line. Pure functions: nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgedeploy.bench.measurement import END_TO_END, PARTS, Measurement, Part, Process
from edgedeploy.bench.quantiles import TooFew, label
from edgedeploy.units import show

#: What a table shows of each part.
PERCENTILES = (0.5, 0.9, 0.99)
HEADER = ("part", *(label(q) for q in PERCENTILES), "mean", "min", "max")
_ALL: tuple[Part, ...] = (*PARTS, END_TO_END)


def headline(measurement: Measurement) -> str:
    """One line: the median end to end with its interval, and the rate of one stream back to back."""
    between = measurement.interval()
    within = "" if isinstance(between, TooFew) else f" ({_time(between[0])} to {_time(between[1])})"
    return (
        f"{measurement.conditions.name} on {measurement.conditions.backend}: {_time(measurement.latency)}{within} "
        f"end to end, median of {measurement.count} samples; {measurement.fps:.4g} FPS as one stream back to back"
    )


def latency_rows(measurement: Measurement) -> list[tuple[str, ...]]:
    """A row per part under `HEADER`; a percentile that the samples do not support says how many it needs."""
    rows = []
    for part in _ALL:
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
        ("start of the process", _time(_median(measurement, lambda p: p.start))),
        ("import of the runtime", _time(_median(measurement, lambda p: p.runtime_import))),
        ("load", _time(_median(measurement, lambda p: p.load))),
        ("first inference", _time(_first(measurement, END_TO_END))),
        ("one stream back to back", f"{measurement.fps:.4g} FPS"),
        ("compute alone", f"{measurement.compute_throughput:.4g} samples/s"),
        ("model on disk", _size(conditions.model_size)),
        ("memory of the model", _size(measurement.model_memory)),
        ("peak memory of the process", _size(measurement.peak_memory)),
        ("samples", f"{measurement.count} in {len(measurement.processes)} processes, batch {conditions.batch}"),
        ("inputs", shapes),
        ("threads", "runtime's default" if threads is None else str(threads)),
        ("runtime", f"{conditions.backend} {environment.runtime or ''}".strip()),
        ("processor", f"{environment.cpu or 'unknown'}, {environment.cores or 'unknown'} logical cores"),
    ]


def summary(measurement: Measurement) -> dict[str, Any]:
    """The statistics in SI units, ready for JSON; a percentile that is not supported is ``None``."""
    return {
        "name": measurement.conditions.name,
        "backend": measurement.conditions.backend,
        "created": measurement.created,
        "fingerprint": measurement.fingerprint(),
        "samples": measurement.count,
        "latency": {part: _statistics(measurement, part) for part in _ALL},
        "process_medians": list(measurement.process_medians()),
        "fps_one_stream": measurement.fps,
        "compute_throughput": measurement.compute_throughput,
        "start": _median(measurement, lambda p: p.start),
        "runtime_import": _median(measurement, lambda p: p.runtime_import),
        "load": _median(measurement, lambda p: p.load),
        "first_inference": {part: _first(measurement, part) for part in _ALL},
        "model_size": measurement.conditions.model_size,
        "model_memory": measurement.model_memory,
        "peak_memory": measurement.peak_memory,
    }


def _statistics(measurement: Measurement, part: Part) -> dict[str, float | None]:
    percentiles = {label(q): measurement.percentile(q, part) for q in PERCENTILES}
    known = {name: None if isinstance(value, TooFew) else value for name, value in percentiles.items()}
    return {**known, "mean": measurement.mean(part)}


def _median(measurement: Measurement, value: Callable[[Process], float]) -> float:
    return float(np.median([value(process) for process in measurement.processes]))


def _first(measurement: Measurement, part: Part) -> float:
    return _median(measurement, lambda process: float(process.first.seconds(part)[0]))


def _percentile(value: float | TooFew) -> str:
    return f"needs {value.needed} samples" if isinstance(value, TooFew) else _time(value)


def _time(seconds: float) -> str:
    return show(seconds, "s")


def _size(size: float | None) -> str:
    return "unknown" if size is None else show(size, "B")
