"""The report as one page that needs nothing else: no network, no file beside it, and no script to be read.

Everything that came with a record (names above all) is somebody else's text: it is escaped by the template engine, and
a content security policy lets run one script only, known by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.errors import Unavailable
from edgedeploy.report import cells, ratios, roofs
from edgedeploy.report.charts import Chart
from edgedeploy.report.entry import Entry, Row, counted, rows
from edgedeploy.report.pareto import Point, chart, points, predicted_points
from edgedeploy.report.roofs import Explained
from edgedeploy.report.section import section
from edgedeploy.report.svg import clean

if TYPE_CHECKING:
    from edgedeploy.bench.versus import Versus
    from edgedeploy.predict.prediction import Prediction

#: What the reader may choose among, with the column of the table that it is about.
FILTERS = ("model", "device", "backend", "scenario")


@dataclass(frozen=True)
class Strip:
    """A row's p50 and its largest known percentile on an axis that all rows share, from 0 to 100."""

    middle: float
    end: float
    name: str


@dataclass(frozen=True)
class Line:
    """A row of the first table: the anchor of its section, the numbers, and the picture of them."""

    anchor: str
    row: Row
    strip: Strip | None


@dataclass(frozen=True)
class Extra:
    """A part of the page that is not about one measurement: sentences, a list, and a chart for each of its topics."""

    anchor: str
    title: str
    charts: tuple[tuple[str, Chart], ...]
    note: str
    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Besides:
    """What a page may have besides measurements.

    Args:
        predictions: shown in a table of their own, marked as predictions.
        explained: passes that ``edgedeploy why`` explained, each with its roofline.
        versus: artifacts that were measured in turn.
    """

    predictions: Sequence[Prediction] = ()
    explained: Sequence[Explained] = ()
    versus: Sequence[Versus] = ()


def page(entries: Sequence[Entry], created: str, besides: Besides | None = None) -> str:
    """The whole page; the same records and ``created`` give the same text.

    Args:
        entries: what was measured, in the order in which it is shown.
        created: when the page was made, as text; the only thing in it that is not in the records.
        besides: what else is shown.

    Raises:
        Unavailable: Jinja or matplotlib is not installed.
    """
    environment = templates()
    besides = besides or Besides()
    found = rows(entries)
    lines = [
        Line(f"m{number}", row, strip)
        for number, (row, strip) in enumerate(zip(found, strips(found), strict=True), start=1)
    ]
    sections = [section(entry, line.row, line.anchor) for entry, line in zip(entries, lines, strict=True)]
    style, script = part("style.css"), part("script.js")
    made = environment.get_template("page.html.j2").render(
        created=created,
        lines=lines,
        sections=sections,
        extras=(*_ratios(besides.versus), *_fronts(entries, found, besides.predictions), *_roofs(besides.explained)),
        predictions=besides.predictions,
        filters={name: sorted({str(getattr(row, name)) for row in found}) for name in FILTERS},
        summary=summary(found),
        shown=_shown(found),
        unknown=_unknown(found),
        metric=" / ".join(dict.fromkeys(row.accuracy.name for row in found if row.accuracy is not None)),
        cells=cells,
        style=style,
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return str(made)


def summary(found: Sequence[Row]) -> str:
    """What was measured where, as one sentence."""
    models, devices = ({getattr(row, key) for row in found} for key in ("model", "device"))
    calm = sum(not row.doubts for row in found)
    said = (
        f"{counted(len(found), 'measurement')} of {counted(len(models), 'model')} on {counted(len(devices), 'device')}"
    )
    if calm == len(found):
        return f"{said}, without a doubt."
    return f"{said}; {calm} of {len(found)} without a doubt."


def strips(found: Sequence[Row]) -> list[Strip | None]:
    """Where each row lies between the fastest and the slowest of all, on a logarithmic axis."""
    ends = [(row.p50, *_slow(row)) for row in found]
    known = [value for one in ends for value in one[:2] if isinstance(value, float) and value > 0]
    if not known:
        return [None] * len(found)
    low, high = math.log(min(known)), math.log(max(known))
    spread = max(high - low, 0.2)

    def place(value: float) -> float:
        return round(3 + 94 * (math.log(value) - low) / spread, 1)

    return [
        Strip(place(median), place(slow), name)
        if isinstance(median, float) and isinstance(slow, float) and median > 0
        else None
        for median, slow, name in ends
    ]


def _slow(row: Row) -> tuple[float | TooFew, str]:
    """The highest percentile that the samples support."""
    for value, name in ((row.p99, "p99"), (row.p90, "p90")):
        if not isinstance(value, TooFew):
            return value, name
    return row.p50, "p50"


def _shown(found: Sequence[Row]) -> dict[str, bool]:
    """Columns that at least one row has a number for; the others would be dashes from top to bottom."""
    keys = ("precision", "memory", "energy", "accuracy")
    return {key: any(getattr(row, key) is not None for row in found) for key in keys}


def _unknown(found: Sequence[Row]) -> str:
    names = {
        "precision": "the precision",
        "memory": "memory",
        "energy": "energy per inference",
        "accuracy": "accuracy",
    }
    missing = [name for key, name in names.items() if not _shown(found)[key]]
    if not missing:
        return ""
    listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
    return f"Not known for any of these: {listed}."


def _ratios(found: Sequence[Versus]) -> tuple[Extra, ...]:
    made = []
    for number, one in enumerate(found, start=1):
        first, second = ratios.names(one)
        drawn = ratios.chart(one, f"versus{number}")
        title = f"{second} or {first}?"
        made.append(Extra(f"versus-{number}", title, (("", drawn),), ratios.sentence(one), doubts=one.doubts()))
    return tuple(made)


def _roofs(found: Sequence[Explained]) -> tuple[Extra, ...]:
    made = []
    for number, one in enumerate(found, start=1):
        drawn = roofs.chart(one, f"roof{number}")
        title = f"Why is it not faster? {one.name} in {one.precision} on {one.backend}"
        charts = () if drawn is None else ((one.device, drawn),)
        made.append(Extra(f"why-{number}", title, charts, one.headline, tuple(one.lines())))
    return tuple(made)


def _fronts(entries: Sequence[Entry], found: Sequence[Row], predictions: Sequence[Prediction]) -> tuple[Extra, ...]:
    every = (*points(entries, found), *predicted_points(predictions, found))
    measured = [point for point in every if not point.predicted]
    if not measured:
        return ()
    devices: dict[str, list[Point]] = {}
    for point in every:
        devices.setdefault(point.device, []).append(point)
    devices = {device: some for device, some in devices.items() if len(some) > 1}
    metric = next(row.accuracy.name for row in found if row.accuracy is not None)
    charts = tuple(
        (device, chart(device, some, metric, f"pareto{number}"))
        for number, (device, some) in enumerate(devices.items(), start=1)
    )
    if not charts:
        return ()
    without = len(found) - len(measured)
    missing = f"The accuracy of {counted(without, 'measurement')} is not known; they are not in it." if without else ""
    return (Extra("accuracy", "Accuracy over latency", charts, missing),)


def templates() -> Any:
    """Jinja as every page wants it: text is escaped, unknown names are errors.

    Raises:
        Unavailable: Jinja is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise Unavailable.extra("Jinja, which writes pages,", "report") from error

    def text(value: object) -> object:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=text,
    )
    environment.filters["drawn"] = lambda one: Markup(one.svg)
    environment.filters["verbatim"] = Markup
    environment.filters["tight"] = _tight
    return environment


def _tight(said: str) -> str:
    """Numbers stay with their units, and the first of two with the ``to`` behind it."""
    joined = re.sub(r"(?<=\d) (?=[a-zA-Z%]+\b)", "\N{NO-BREAK SPACE}", said)
    return joined.replace(" to ", "\N{NO-BREAK SPACE}to ")


def part(name: str) -> str:
    """The text of a file of `page`."""
    return (files("edgedeploy.report") / "page" / name).read_text("utf-8")
