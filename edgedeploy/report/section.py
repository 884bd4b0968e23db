"""What a page says about one measurement: numbers, charts, parts, cold start, and all that they depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedeploy.bench.measurement import END_TO_END, PARTS, WAIT, Measurement, Part
from edgedeploy.bench.outcome import outcome
from edgedeploy.bench.statistics.quantiles import label
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.report import cells, frames
from edgedeploy.report.charts import Chart, course, distribution, quantity
from edgedeploy.report.entry import Entry, Row
from edgedeploy.report.scenarios import curve, facts
from edgedeploy.units import show

PERCENTILES = (0.5, 0.9, 0.99, 0.999)
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Piece:
    """A part of a bar: its name, what it says, where it begins and how long it is, out of 100."""

    name: str
    text: str
    begin: float
    length: float


@dataclass(frozen=True)
class Bar:
    """Pieces that add up to ``total``."""

    title: str
    total: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Section:
    """One measurement as it is shown. ``telemetry`` rows: what, value, trust, source."""

    anchor: str
    row: Row
    subtitle: str
    facts: tuple[tuple[str, str, str], ...]
    charts: tuple[Chart, ...]
    bars: tuple[Bar, ...]
    scenario: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    latencies: tuple[tuple[str, ...], ...]
    header: tuple[str, ...]
    conditions: Pairs
    environment: Pairs
    telemetry: tuple[tuple[str, str, str, str], ...]


def section(entry: Entry, row: Row, anchor: str) -> Section:
    """The section of one entry; ``anchor`` begins the names of everything in it.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    measurement = entry.measurement
    place = measurement.place
    found = outcome(measurement)
    charts = [distribution(measurement, f"{anchor}-distribution"), course(measurement, f"{anchor}-course")]
    if found.endurance is not None:
        charts.append(curve(found.endurance, f"{anchor}-sustained"))
    how = "" if place.on == "local" else f", reached by {place.on}"
    return Section(
        anchor=anchor,
        row=row,
        subtitle=f"{row.backend}{f' {row.precision}' if row.precision else ''} on {row.device}{how}; {row.scenario}; "
        f"{measurement.created}",
        facts=_facts(measurement, row),
        charts=tuple(charts),
        bars=(_parts(measurement), _cold_start(measurement)),
        scenario=(*frames.facts(measurement, found), *facts(found)),
        notes=(*found.notes, *found.rules),
        latencies=_latencies(measurement),
        header=("part", *(label(q) for q in PERCENTILES), "mean", "min", "max"),
        conditions=_conditions(measurement),
        environment=_environment(measurement),
        telemetry=_telemetry(measurement),
    )


def _facts(measurement: Measurement, row: Row) -> tuple[tuple[str, str, str], ...]:
    """The headline numbers, each with what qualifies it; those that are not known are not among them."""
    memory = cells.size(measurement.model_memory)
    found = [
        ("p50 end to end", cells.time(row.p50), cells.interval(row.p50_interval)),
        ("p90", cells.time(row.p90), ""),
        ("p99", cells.time(row.p99), ""),
        ("throughput", str(row.rate), row.rate.name),
        ("cold start", show(measurement.cold_start, "s"), "to the end of the first pass"),
        ("peak memory", cells.size(row.memory), "" if memory == cells.UNKNOWN else f"{memory} of it for the model"),
        ("energy per inference", cells.energy(row.energy), ""),
    ]
    if row.accuracy is not None:
        found.append((row.accuracy.name, f"{row.accuracy.value:.4f}", cells.accuracy_change(row.accuracy)))
    return tuple(one for one in found if one[1] != cells.UNKNOWN)


def _parts(measurement: Measurement) -> Bar:
    named: tuple[Part, ...] = (WAIT, *PARTS)
    means = [(name, measurement.mean(name)) for name in named]
    return _bar("Where the time goes, mean of each part", [(n, m) for n, m in means if n != WAIT or m > 0])


def _cold_start(measurement: Measurement) -> Bar:
    processes = measurement.processes
    pieces = {
        "process": [p.start for p in processes],
        "import": [p.runtime_import for p in processes],
        "load": [p.load for p in processes],
        "first pass": [float(p.first.seconds()[0]) for p in processes],
    }
    medians = [(name, float(np.median(values))) for name, values in pieces.items()]
    return _bar("Cold start, median of each piece", medians)


def _bar(title: str, values: Sequence[tuple[str, float]]) -> Bar:
    total = sum(value for _, value in values)
    whole, begin, pieces = total or 1.0, 0.0, []
    for name, value in values:
        length = 100 * value / whole
        pieces.append(Piece(name, f"{show(value, 's')}, {value / whole:.0%}", round(begin, 2), round(length, 2)))
        begin += length
    return Bar(title, show(total, "s"), tuple(pieces))


def _latencies(measurement: Measurement) -> tuple[tuple[str, ...], ...]:
    waited = any(process.samples.wait for process in measurement.processes)
    named: tuple[Part, ...] = (*((WAIT,) if waited else ()), *PARTS, END_TO_END)
    rows = []
    for part in named:
        times = measurement.seconds(part)
        percentiles = (cells.time(measurement.percentile(q, part)) for q in PERCENTILES)
        ends = (show(value, "s") for value in (measurement.mean(part), float(times.min()), float(times.max())))
        rows.append((part, *percentiles, *ends))
    return tuple(rows)


def _conditions(measurement: Measurement) -> Pairs:
    conditions = measurement.conditions
    shapes = "; ".join(f"{name} {_shape(shape)}" for name, shape in conditions.inputs.items())
    found: list[tuple[str, object]] = [
        ("artifact", f"{conditions.name}, digest {conditions.digest[:16]}"),
        ("size on disk", cells.size(conditions.model_size)),
        ("graph", conditions.graph),
        ("batch", conditions.batch),
        ("inputs", shapes),
        ("samples cycled through", f"{conditions.sample_count}, the largest {_shape(conditions.sample_shape)}"),
        ("threads", "runtime's default" if conditions.threads is None else conditions.threads),
        ("options", _listed(conditions.options)),
        ("the session says", _listed(measurement.processes[0].facts)),
        ("scenario", _listed(_told(conditions.scenario))),
        ("end to end includes", ", ".join(conditions.includes)),
        ("asked for", f"{show(conditions.duration, 's')} of sampling, processes: {len(measurement.processes)}"),
        ("taken", f"{measurement.count} samples"),
        ("each sample", _sample(conditions.mean_of)),
        ("fingerprint of the conditions", measurement.fingerprint()),
    ]
    return tuple((name, str(value)) for name, value in found)


def _sample(mean_of: int) -> str:
    return "one pass" if mean_of == 1 else f"the mean of {mean_of} passes: nothing is known of single ones"


def _environment(measurement: Measurement) -> Pairs:
    environment = measurement.environment
    found = {**_told(environment), "load_average": environment.load_average}
    if environment.memory is not None:
        found["memory"] = show(environment.memory, "B")
    return tuple((name.replace("_", " "), _value(value)) for name, value in found.items())


def _told(record: object) -> dict[str, object]:
    fields = dataclasses.fields(record)  # type: ignore[arg-type]
    return {f.name: value for f in fields if (value := getattr(record, f.name)) is not None}


def _telemetry(measurement: Measurement) -> tuple[tuple[str, str, str, str], ...]:
    """Every number about the runs that is not a latency, per process, each with how far it can be trusted."""
    each = [process.telemetry for process in measurement.processes]
    found = [
        ("wall time of sampling", _values(each, "wall", "s"), "exact", "monotonic clock"),
        ("step of the clock", _values(each, "resolution", "s"), "exact", "clock readings"),
        ("memory before the load", _values(each, "memory_before", "B"), "exact", "/proc/self/status: VmRSS"),
        ("peak memory", _values(each, "memory_peak", "B"), "exact", "/proc/self/status: VmHWM"),
        ("processor time", _values(each, "processor", "s"), "exact", "process clock"),
        ("involuntary context switches", _values(each, "involuntary_switches", ""), "exact", "getrusage"),
        ("processors used by others", _values(each, "foreign", "%"), "shared", "/proc/stat"),
        ("taken by the hypervisor", _values(each, "steal", "%"), "shared", "/proc/stat"),
        ("some task waited for a processor", _values(each, "pressure", "%"), "shared", "/proc/pressure/cpu"),
    ]
    rows = [(name, value or "absent", trust if value else "absent", source) for name, value, trust, source in found]
    readings = {(r.name, r.unit, r.trust, r.source): None for one in each for r in one.readings}
    for name, unit, trust, source in readings:
        values = [r.value for one in each for r in one.readings if (r.name, r.trust, r.source) == (name, trust, source)]
        told = [quantity(value, unit) for value in values if value is not None]
        rows.append((name, " / ".join(told) or "absent", trust, source))
    return tuple(rows)


def _values(each: Iterable[Telemetry], name: str, unit: str) -> str:
    known = [value for one in each if (value := getattr(one, name)) is not None]
    shown = [f"{value:.1%}" if unit == "%" else quantity(value, unit) for value in known]
    return " / ".join(dict.fromkeys(shown)) if len(set(shown)) == 1 else " / ".join(shown)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return _listed(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "none"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
