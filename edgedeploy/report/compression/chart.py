"""Accuracy over speed and over work, a point per rung: which forms of the network nobody would trade for another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgedeploy.errors import UsageError
from edgedeploy.report import labels
from edgedeploy.report.charts import Chart, figure
from edgedeploy.report.compression.records import CompressionTable, Rung, Speed
from edgedeploy.report.pareto import Point, front
from edgedeploy.report.svg import GRID, INK, MUTED, PAPER, SERIES, STYLE, clean, drawing, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metric = Literal["AP50", "AP50-95"]
#: Points of one chart.
WIDTH, HEIGHT = 460, 340
#: What reaches less than this share of the best accuracy is left out of a chart, and named below it.
WORTH = 0.6
#: What a picture outside of a page is drawn in, for the stand-ins that a page has variables for.
COLORS = {
    INK: "#17212b", MUTED: "#586472", GRID: "#dce1e7", PAPER: "#ffffff",
    **dict(zip(SERIES, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"), strict=True)),
}  # fmt: skip


@dataclass(frozen=True)
class Dot:
    """A rung in a chart: its value on the axis and its accuracy, with bounds where they are known."""

    name: str
    x: float
    x_bounds: tuple[float, float] | None
    y: float
    y_bounds: tuple[float, float] | None


@dataclass(frozen=True)
class View:
    """One chart: ``axis`` says what stands on the horizontal axis and under which conditions."""

    title: str
    axis: str
    dots: tuple[Dot, ...]
    more_is_better: bool
    left_out: tuple[Dot, ...] = ()

    @classmethod
    def of(cls, title: str, axis: str, dots: Sequence[Dot | None], more_is_better: bool) -> View:
        """The view of those that are known, without what would press the rest together."""
        known = [dot for dot in dots if dot is not None]
        least = WORTH * max((dot.y for dot in known), default=0.0)
        shown = tuple(dot for dot in known if dot.y >= least)
        return cls(title, axis, shown, more_is_better, tuple(dot for dot in known if dot.y < least))


def views(table: CompressionTable, metric: Metric = "AP50") -> tuple[View, ...]:
    """A chart per number of threads with the rungs that were timed, and one over MACs with those that run in PyTorch.

    A bundle computes what its network does, so that it has no place of its own in the second.
    """
    found = []
    for timing in table.timings:
        threads = f"{timing.threads} thread{'s'[: timing.threads != 1]}"
        pairs = [(r, s) for r in table.rungs for s in r.speed if s.threads == timing.threads]
        base = next((s.fps for r, s in pairs if r.name == timing.reference), None)
        dots = [_dot(table, rung, metric, speed.fps, _fps_bounds(speed, base)) for rung, speed in pairs]
        axis = f"FPS, 1 / median latency of one stream, {threads}"
        found.append(View.of(f"{metric} over speed, {threads}", axis, dots, more_is_better=True))
    networks = [rung for rung in table.rungs if not rung.speed and rung.accuracy is not None]
    over = [_dot(table, rung, metric, rung.macs / 1e9, None) for rung in networks]
    sizes = " and ".join(dict.fromkeys(f"{r.size[0]}x{r.size[1]}" for r in networks))
    axis = f"GMACs at {sizes} (1 MAC = 2 FLOPs)"
    found.append(View.of(f"{metric} over work, networks", axis, over, more_is_better=False))
    return tuple(view for view in found if len(view.dots) > 1)


def chart(table: CompressionTable, view: View, metric: Metric, name: str) -> Chart:
    """A view as a picture for a page; ``name`` is that of its ids.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    with drawing(name):
        made = figure(WIDTH, HEIGHT)
        axes = made.subplots()
        _draw(axes, view, _metric(table, metric), {color: color for color in COLORS})
        said = "; ".join(f"{dot.name}: {dot.x:.4g}, {dot.y:.4f}" for dot in view.dots)
        svg = inline(made, name, view.title, said)
    return Chart(svg, caption(table, view))


def caption(table: CompressionTable, view: View) -> str:
    """What the reader of a view has to know."""
    said = "Green, dashed: the front, which no other one beats in both."
    if any(dot.y_bounds for dot in view.dots):
        said += f" Upright bars: {_confidence(table)} interval of the difference from the baseline on the same images."
    if any(dot.x_bounds for dot in view.dots):
        said += " Level bars: interval of the ratio to the reference, from calls in turn."
    if view.left_out:
        said += f" Not shown: {', '.join(f'{dot.name} ({dot.y:.4f})' for dot in view.left_out)}."
    if view.more_is_better:
        return f"{said} Timed on {table.timings[0].device}."
    return f"{said} Networks in PyTorch fp32; what is exported from one has its MACs."


def picture(table: CompressionTable, path: Path, metric: Metric = "AP50") -> Path:
    """All views beside each other, as PNG, SVG or PDF, with the conditions below.

    Raises:
        UsageError: no two rungs have both numbers, or not a picture's suffix.
        Unavailable: matplotlib is not installed.
    """
    found = views(table, metric)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{path} is no .png, .svg or .pdf file.")
    if not found:
        raise UsageError("There is nothing to plot: fewer than two rungs have an accuracy and a speed or a size.")
    with drawing("compression"):
        import matplotlib as mpl

        style = {key: COLORS.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
        with mpl.rc_context(style):
            made = figure(WIDTH * len(found), HEIGHT + 30)
            for axes, view in zip(made.subplots(1, len(found), squeeze=False)[0], found, strict=True):
                _draw(axes, view, _metric(table, metric), COLORS)
                axes.set_title(view.title)
            words = _words(table, found)
            made.supxlabel(clean(words), fontsize=8.5, color=COLORS[MUTED], x=0.01, ha="left")
            made.savefig(path, dpi=160, facecolor=COLORS[PAPER])
    return path


def _words(table: CompressionTable, found: Sequence[View]) -> str:
    """What stands below a picture."""
    said = [f"{table.data}, {table.images} images."]
    if table.timings:
        said.append(f"Timed on {table.timings[0].device}: {table.timings[0].includes}.")
    out = dict.fromkeys(f"{dot.name} ({dot.y:.4f})" for view in found for dot in view.left_out)
    return " ".join([*said, *([f"Not shown: {', '.join(out)}."] if out else [])])


def _metric(table: CompressionTable, metric: Metric) -> str:
    """The metric with the protocol and the size under which it was measured."""
    known = [rung for rung in table.rungs if rung.accuracy is not None]
    sizes = " and ".join(dict.fromkeys(f"{r.accuracy.size[0]}x{r.accuracy.size[1]}" for r in known if r.accuracy))
    rules = " and ".join(dict.fromkeys(r.protocol.partition(":")[0] for r in known if r.protocol))
    return ", ".join(filter(None, (metric, rules and f"protocol {rules}", sizes)))


def _confidence(table: CompressionTable) -> str:
    known = [rung.difference.ap50.confidence for rung in table.rungs if rung.difference is not None]
    return f"{known[0]:.0%}" if known else ""


def _dot(
    table: CompressionTable, rung: Rung, metric: Metric, x: float, bounds: tuple[float, float] | None
) -> Dot | None:
    if rung.accuracy is None:
        return None
    value = rung.accuracy.metric.ap50 if metric == "AP50" else rung.accuracy.metric.ap50_95
    if value is None:
        return None
    around = None
    if rung.difference is not None:
        found = rung.difference.ap50 if metric == "AP50" else rung.difference.ap50_95
        around = (value - found.estimate + found.low, value - found.estimate + found.high)
    return Dot(rung.name, x, bounds, value, around)


def _fps_bounds(speed: Speed, base: float | None) -> tuple[float, float] | None:
    if base is None or speed.low is None or speed.high is None or speed.low == speed.high:
        return None
    return base * speed.low, base * speed.high


def _draw(axes: Axes, view: View, metric: str, color: dict[str, str]) -> None:
    found = [
        Point(dot.name, "", "", 1 / dot.x if view.more_is_better else dot.x, None, dot.y, None) for dot in view.dots
    ]
    best = [point.label for point in front(found)]
    joined = sorted((dot for dot in view.dots if dot.name in best), key=lambda dot: dot.x)
    green, blue = color[SERIES[2]], color[SERIES[0]]
    axes.step(
        [dot.x for dot in joined], [dot.y for dot in joined], where="pre" if view.more_is_better else "post",
        color=green, linewidth=1.3, linestyle="--", zorder=1,
    )  # fmt: skip
    for dot in view.dots:
        own: dict[str, Any] = {"color": green if dot.name in best else blue, "zorder": 2}
        if dot.x_bounds is not None:
            axes.plot(list(dot.x_bounds), [dot.y, dot.y], linewidth=1.2, **own)
        if dot.y_bounds is not None:
            axes.plot([dot.x, dot.x], list(dot.y_bounds), linewidth=1.2, **own)
        axes.plot([dot.x], [dot.y], marker="o", markersize=7 if dot.name in best else 6, linestyle="none", **own)
    axes.margins(x=0.14, y=0.14)
    low = axes.get_xlim()[0]
    axes.set_xlim(left=max(0.0, low))
    axes.set_xlabel(view.axis)
    axes.set_ylabel(metric)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the figure, which lays out its axes
    named = sorted((labels.Named(clean(dot.name), dot.x, dot.y) for dot in view.dots), key=lambda one: -one.y)
    labels.write(axes, named, color[INK], color[MUTED], _lines(axes, view, joined))


def _lines(axes: Axes, view: View, joined: Sequence[Dot]) -> list[labels.Box]:
    """What the bars and the front cover, in points."""
    zoom = 72 / axes.figure.dpi
    ends = [((dot.x, dot.y_bounds[0]), (dot.x, dot.y_bounds[1])) for dot in view.dots if dot.y_bounds]
    ends += [((dot.x_bounds[0], dot.y), (dot.x_bounds[1], dot.y)) for dot in view.dots if dot.x_bounds]
    for left, right in itertools.pairwise(joined):
        corner = (left.x, right.y) if view.more_is_better else (right.x, left.y)
        ends += [((left.x, left.y), corner), (corner, (right.x, right.y))]
    found = []
    for one, other in ends:
        (a, b), (c, d) = (axes.transData.transform(end) * zoom for end in (one, other))
        found.append((min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2))
    return found
