"""Rows of a history as text, and as CSV. Pure functions of the rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from edgedeploy.history import Row
from edgedeploy.report.tables import cell
from edgedeploy.units import show

HEADER = ("id", "when", "model", "device", "backend", "scenario", "p50", "p90", "doubts")
UNKNOWN = "-"


def listing(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line per measurement under `HEADER`."""
    return [
        (
            str(row.id),
            when(row.created),
            row.model,
            row.target or row.device,
            " ".join(filter(None, (row.backend, row.precision))),
            row.scenario,
            median(row.median, row.low, row.high),
            UNKNOWN if row.p90 is None else show(row.p90, "s"),
            str(row.doubts or "none"),
        )
        for row in rows
    ]


def table(rows: Sequence[Row]) -> str:
    """All columns as CSV, in SI; lines end with CR LF as RFC 4180 has it.

    Text that a spreadsheet would calculate is preceded by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)])
    writer.writeheader()
    for row in rows:
        writer.writerow({key: cell(value) for key, value in asdict(row).items()})
    return out.getvalue()


def when(created: str) -> str:
    """``2025-03-01 12:00`` of an ISO time, which is in UTC."""
    return created[:16].replace("T", " ")


def median(value: float, low: float | None, high: float | None) -> str:
    """``20.0 ms ±0.5%``: seconds, and how far away the farther end of its interval is."""
    if low is None or high is None:
        return show(value, "s")
    return f"{show(value, 's')} ±{max(1 - low / value, high / value - 1):.1%}"
