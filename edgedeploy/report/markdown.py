"""The report as Markdown: the table, and below it the doubts. The numbers are those of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgedeploy.report import cells
from edgedeploy.report.entry import Entry, Row, rows
from edgedeploy.report.svg import clean
from edgedeploy.units import show

if TYPE_CHECKING:
    from edgedeploy.predict.prediction import Prediction

HEADER = (
    *("model", "device", "backend", "precision", "scenario", "samples", "p50", "95 % interval", "p90", "p99"),
    *("throughput", "memory", "energy per inference", "accuracy", "doubts"),
)
#: What Markdown or HTML would make something of.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def markdown(entries: Sequence[Entry], created: str, predictions: Sequence[Prediction] = ()) -> str:
    """A document with the table of ``entries``, a verdict for each, its doubts, and predictions marked as such."""
    found = rows(entries)
    lines = ["# Latency report", "", f"{len(entries)} measurements. Made {escaped(created)}.", ""]
    lines += _table(HEADER, [_cells(row) for row in found])
    for number, row in enumerate(found, start=1):
        lines += ["", f"## {number}. {escaped(row.model)} on {escaped(row.device)}, {escaped(row.backend)}", ""]
        lines += [escaped(row.verdict)]
        if row.frames:
            lines += ["", escaped(row.frames)]
        if row.doubts:
            lines += ["", *(f"- {escaped(doubt)}" for doubt in row.doubts)]
    if predictions:
        lines += ["", "## Predictions", "", "Nothing below was measured.", ""]
        header = ("model", "device", "backend", "precision", "predicted", "interval", "outside of the fit")
        lines += _table(header, [_predicted(one) for one in predictions])
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown or HTML would act on."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(text).split()))


def _cells(row: Row) -> list[str]:
    known = row.accuracy
    said = cells.accuracy(known) + ("" if known is None else f"; {cells.accuracy_change(known)}")
    return [
        *(row.model, row.device, row.backend, row.precision or cells.UNKNOWN, row.scenario, str(row.samples)),
        *(cells.time(row.p50), cells.interval(row.p50_interval) or cells.UNKNOWN),
        *(cells.time(row.p90), cells.time(row.p99), cells.rate(row), cells.size(row.memory)),
        *(cells.energy(row.energy), said, cells.doubts(row)),
    ]


def _predicted(one: Prediction) -> list[str]:
    setting = one.setting
    between = f"{show(one.low, 's')} to {show(one.high, 's')} ({one.confidence:.0%})"
    named = [one.graph, setting.device, setting.runtime, setting.precision]
    return [*named, f"about {show(one.seconds, 's')}", between, " ".join(one.outside) or "-"]


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *([escaped(cell) for cell in line] for line in body)]
    return ["| " + " | ".join(line) + " |" for line in lines]
