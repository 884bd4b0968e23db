"""What became of the rows of a plan, as rows of text, as Markdown and as CSV. Pure functions of the results."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgedeploy.report.history import median
from edgedeploy.report.markdown import escaped
from edgedeploy.report.tables import cell
from edgedeploy.units import show

AXES = ("model", "device", "precision", "backend", "scenario")
HEADER = ("row", "state", "p50", "p90", "AP50-95", "doubts", "why")
#: Columns of the CSV besides the axes: SI units, empty where not known.
COLUMNS = (
    *("state", "p50_s", "p50_low_s", "p50_high_s", "p90_s", "samples", "doubts", "ap50_95", "ap50_95_reference"),
    *("difference", "difference_low", "difference_high", "artifact", "bundle", "why"),
)


class Result(Protocol):
    """What is read of an `edgedeploy.plan.RowResult`."""

    @property
    def row(self) -> object: ...
    @property
    def state(self) -> str: ...
    @property
    def why(self) -> str | None: ...
    @property
    def bundle(self) -> str | None: ...
    @property
    def artifact(self) -> str | None: ...
    @property
    def latency(self) -> Mapping[str, Any] | None: ...
    @property
    def accuracy(self) -> Mapping[str, Any] | None: ...


def result_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A row per result under `HEADER`."""
    return [
        (
            str(result.row),
            result.state,
            _median(result.latency),
            _time(result.latency, "p90"),
            _accuracy(result.accuracy),
            "-" if result.latency is None else str(len(result.latency["doubts"]) or "none"),
            result.why or "",
        )
        for result in results
    ]


def summary(results: Sequence[Result]) -> str:
    """``4 rows: 2 done, 1 reused, 1 failed``."""
    counts = Counter(result.state for result in results)
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{len(results)} row{'s'[: len(results) != 1]}: {listed}"


def markdown(results: Sequence[Result]) -> str:
    """The table as Markdown, with the summary above it."""
    lines = [escaped(summary(results)), "", "| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in result_rows(results)]
    return "\n".join(lines) + "\n"


def table(results: Sequence[Result]) -> str:
    """The results as CSV; text that a spreadsheet would calculate is preceded by an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow((*AXES, *COLUMNS))
    for result in results:
        latency, accuracy = result.latency or {}, result.accuracy or {}
        values = [getattr(result.row, axis) for axis in AXES]
        values += [result.state, *(latency.get(key) for key in ("median", "low", "high", "p90", "count"))]
        values += [" ".join(latency.get("doubts", ()))]
        values += [accuracy.get(key) for key in ("ap50_95", "reference", "difference", "low", "high")]
        writer.writerow([cell(value) for value in (*values, result.artifact, result.bundle, result.why)])
    return out.getvalue()


def _median(latency: Mapping[str, Any] | None) -> str:
    return "-" if latency is None else median(latency["median"], latency["low"], latency["high"])


def _time(latency: Mapping[str, Any] | None, key: str) -> str:
    return "-" if latency is None or latency[key] is None else show(latency[key], "s")


def _accuracy(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None or accuracy["ap50_95"] is None:
        return "-"
    return f"{accuracy['ap50_95']:.4f} ({accuracy['difference']:+.4f})"
