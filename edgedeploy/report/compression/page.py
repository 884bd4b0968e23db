"""A compression as one page that needs nothing else: table, plots, trainings, lineage, published figures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.accuracy import Difference
from edgedeploy.report.compression import text
from edgedeploy.report.compression.chart import Metric, chart, views
from edgedeploy.report.compression.records import CompressionTable, Rung
from edgedeploy.report.html import part, templates
from edgedeploy.units import show

#: Pictures larger than this are left out: a page has to open on a phone.
LARGEST = 4 << 20


@dataclass(frozen=True)
class Cell:
    """What stands in a cell of the page's table, and the lines in small letters below it."""

    value: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of the page's table."""

    name: Cell
    cells: tuple[Cell, ...]


def page(table: CompressionTable, folder: Path) -> str:
    """The whole page; the same record and pictures give the same text.

    Args:
        table: the record.
        folder: where the pictures are that it names; those that are not there are left out.

    Raises:
        Unavailable: Jinja or matplotlib is not installed.
    """
    metrics: tuple[Metric, ...] = ("AP50", "AP50-95")
    charts = [
        (view.title, chart(table, view, metric, f"view-{i}-{j}"))
        for i, metric in enumerate(metrics, 1)
        for j, view in enumerate(views(table, metric), 1)
    ]
    made = templates().get_template("compression.html.j2").render(
        table=table,
        header=_header(table),
        lines=[_line(table, rung) for rung in table.rungs],
        lede=lede(table),
        steps=text.steps(table),
        sure=text.confidence(table),
        notes=[*text.notes(table), *text.missing(table)],
        doubts=text.doubts(table),
        charts=charts,
        pictures=_pictures(table, folder),
        papers=[(one, text.paper_rows(one)) for one in table.paper],
        paper_header=text.PAPER_HEADER,
        settings=_pairs(table.settings),
        facts=_pairs(table.environment),
        style=part("style.css"),
    )  # fmt: skip
    return str(made)


def lede(table: CompressionTable) -> str:
    """What came out, in one sentence: the first rung beside the last that has an accuracy."""
    first = table.rungs[0]
    networks = [r for r in table.rungs if r.accuracy is not None and not r.speed and r.form.startswith("PyTorch")]
    last = networks[-1] if networks else first
    said = f"{show(first.params, '')} parameters to {show(last.params, '')}, {show(first.macs, '')} MACs to "
    said += f"{show(last.macs, '')} ({last.size[0]}x{last.size[1]})"
    if last.difference is not None:
        said += f", AP50 {text.difference(last.difference.ap50)} on {table.images} images"
    fast = [(rung, one) for rung in table.rungs for one in rung.speed if rung.stage == last.stage and one.ratio]
    if fast and last is not first:
        told = [f"{one.ratio:.2f} ({r.form}, {text.counted(one.threads)})" for r, one in fast]
        said += f"; times as fast as {table.timings[0].reference}: {', '.join(told)}"
    return f"{first.name} to {last.name}: {said}."


def _header(table: CompressionTable) -> list[Cell]:
    size, rules = _some(text.shared_size(table)), _some(text.shared_protocol(table))
    sure = text.confidence(table)
    change = (f"from {table.rungs[0].name}, {sure}",) if sure else ()
    return [
        Cell("network", ("computed by",)),
        Cell("parameters"),
        Cell("MACs", size),
        Cell("FLOPs", size),
        Cell("file"),
        Cell("AP50", (*rules, *size, *change)),
        Cell("AP50-95", (*rules, *size, *change)),
        Cell("small / medium / large", ("AP50-95", "AP50")),
        *(Cell(f"FPS, {text.counted(t.threads)}", (f"times {t.reference}",)) for t in table.timings),
    ]


def _line(table: CompressionTable, rung: Rung) -> Line:
    at = () if text.shared_size(table) else (f"{rung.size[0]}x{rung.size[1]}",)
    metric = None if rung.accuracy is None else rung.accuracy.metric
    cells = [
        Cell(show(rung.params, "")),
        Cell(show(rung.macs, ""), at),
        Cell(show(rung.flops, ""), at),
        Cell(show(rung.bytes, "B") if rung.bytes else text.UNKNOWN),
    ]
    if metric is None:
        cells += [Cell(text.UNKNOWN)] * 3
    else:
        by = () if text.shared_protocol(table) else (*_some(metric.protocol), *at)
        known = rung.difference
        cells.append(Cell(text.ap(metric.ap50), (*by, *(() if known is None else _change(known.ap50)))))
        cells.append(Cell(text.ap(metric.ap50_95), (*by, *(() if known is None else _change(known.ap50_95)))))
        small = text.three(metric.small, metric.medium, metric.large)
        cells.append(Cell(small, (text.three(metric.small50, metric.medium50, metric.large50),)))
    for timing in table.timings:
        found = next((s for s in rung.speed if s.threads == timing.threads), None)
        value, _, more = text.speed(found).partition(" ")
        cells.append(Cell(value, tuple(more.strip("()").split(", ")) if more else ()))
    return Line(Cell(rung.name, _some(rung.run_by or rung.form)), tuple(cells))


def _some(said: str) -> tuple[str, ...]:
    return (said,) if said else ()


def _change(found: Difference) -> tuple[str, str]:
    return f"{found.estimate:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"


def _pictures(table: CompressionTable, folder: Path) -> list[tuple[str, str]]:
    """Address and caption of every picture, which is in the address itself."""
    found = []
    for name, caption in table.pictures.items():
        path = folder / Path(name).name
        if path.suffix == ".png" and path.is_file() and path.stat().st_size <= LARGEST:
            found.append((f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", caption))
    return found


def _pairs(values: object, before: str = "") -> list[tuple[str, str]]:
    """Names and values of nested mappings, flat; what is empty is left out."""
    if not isinstance(values, dict):
        return [(before, ", ".join(map(str, values)) if isinstance(values, (list, tuple)) else str(values))]
    return [
        pair
        for key, value in values.items()
        if value not in (None, "", [], (), {})
        for pair in _pairs(value, f"{before}.{key}" if before else str(key))
    ]
