"""Telemetry as rows for a table: every reading with its trust, what is absent with the reason, series in short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedeploy.bench.telemetry import Reading, Telemetry, Trust
from edgedeploy.units import UNITS, show

#: What `reading_rows` and `series_rows` give.
READING_HEADER = ("reading", "value", "trust", "read from, or why not")
SERIES_HEADER = ("series", "lowest", "median", "highest", "points", "trust")

#: The fields of a `Telemetry`: name, attribute, unit, trust, source.
_FIELDS: tuple[tuple[str, str, str, Trust, str], ...] = (
    ("time of sampling", "wall", "s", "exact", "monotonic clock"),
    ("memory before the load", "memory_before", "B", "exact", "/proc/self/status: VmRSS"),
    (
        "peak memory",
        "memory_peak",
        "B",
        "exact",
        "/proc/self/status: VmHWM, counted from the load on where that can be",
    ),
    ("processor time", "processor", "s", "exact", "process clock, all threads"),
    ("involuntary switches", "involuntary_switches", "", "exact", "getrusage: ru_nivcsw"),
    ("processors, used by others", "foreign", "share", "shared", "/proc/stat"),
    ("processors, taken by the hypervisor", "steal", "share", "shared", "/proc/stat: steal"),
    ("waiting for a processor", "pressure", "share", "shared", "/proc/pressure/cpu: some"),
)


def reading_rows(each: Sequence[Telemetry]) -> list[tuple[str, str, str, str]]:
    """A row per reading of these processes, under `READING_HEADER`; of several processes lowest and highest.

    What no process could tell comes last, with the reason that the first one gave.
    """
    found: dict[str, list[Reading]] = {}
    for telemetry in each:
        for reading in readings(telemetry):
            found.setdefault(reading.name, []).append(reading)
    rows = [_row(name, same) for name, same in found.items()]
    return [row for row in rows if row[2] != "absent"] + [row for row in rows if row[2] == "absent"]


def series_rows(each: Sequence[Telemetry]) -> list[tuple[str, ...]]:
    """A row per series under `SERIES_HEADER`, the points of all these processes taken together."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for telemetry in each:
        for one in telemetry.series:
            found.setdefault((one.name, one.unit, one.trust), []).extend(one.values)
    return [
        (name, *(amount(float(f(values)), unit) for f in (np.min, np.median, np.max)), str(len(values)), trust)
        for (name, unit, trust), values in found.items()
        if values
    ]


def readings(telemetry: Telemetry) -> tuple[Reading, ...]:
    """The fields of ``telemetry`` as readings, and its readings."""
    fields = []
    for name, attribute, unit, trust, source in _FIELDS:
        value = getattr(telemetry, attribute)
        told: Trust = "absent" if value is None else trust
        fields.append(Reading(name, value, unit, told, source if value is not None else f"not told here ({source})"))
    return (*fields, *telemetry.readings)


def amount(value: float, unit: str) -> str:
    """``value`` as a person reads it: shares in percent, counts in full, units with a prefix where they have some."""
    if unit == "share":
        return f"{value:.1%}"
    if unit in UNITS or unit == "J":
        return show(value, unit)
    return f"{value:,.0f}" if unit == "" and value == int(value) else f"{value:.4g} {unit}".strip()


def _row(name: str, same: Sequence[Reading]) -> tuple[str, str, str, str]:
    known = [reading for reading in same if reading.value is not None]
    if not known:
        return name, "absent", "absent", same[0].source
    values = sorted(reading.value for reading in known if reading.value is not None)
    ends = list(dict.fromkeys(amount(value, known[0].unit) for value in (values[0], values[-1])))
    missing = f"; absent in {len(same) - len(known)} of {len(same)} processes" if len(known) < len(same) else ""
    return name, " to ".join(ends), known[0].trust, known[0].source + missing
