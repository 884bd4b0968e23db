"""Charts of a measurement: how its latencies are distributed, and how they went over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.bench.measurement import END_TO_END, Measurement, Process
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.bench.telemetry import Series
from edgedeploy.report import cells
from edgedeploy.report.svg import INK, MUTED, SERIES, clean, drawing, inline
from edgedeploy.report.thin import Envelope, Floats, envelope, running_median
from edgedeploy.units import UNITS, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a chart that is read on a phone without zooming; a desktop shows two side by side.
WIDTH, HEIGHT, PANEL = 460, 330, 74
#: Columns of a series, one per point of its width.
COLUMNS = 400
#: An axis is logarithmic where the largest value is more than so many times the median.
FAR = 4.0
#: Series of a process that get a panel, at most.
PANELS = 6
MARKED = (0.5, 0.9, 0.99)
BLUE, VERMILLION, GREEN = SERIES[0], SERIES[1], SERIES[2]


@dataclass(frozen=True)
class Chart:
    """An inline SVG, and the sentences that have to stand below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Scale:
    """What seconds are multiplied by on an axis, and the unit that this gives."""

    factor: float
    unit: str

    @classmethod
    def of(cls, seconds: float) -> Scale:
        """The scale in which ``seconds`` is neither a tiny nor a huge number."""
        for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if seconds * factor >= 1:
                return cls(factor, unit)
        return cls(1e9, "ns")


def figure(width: float, height: float) -> Any:
    """An empty figure of so many points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def distribution(measurement: Measurement, name: str) -> Chart:
    """Histogram of end-to-end over all samples, and below it every percentile, stretched towards the tail.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    times = measurement.seconds(END_TO_END)
    scale, far = Scale.of(float(np.median(times))), _far(times)
    with drawing(name):
        made = figure(WIDTH, HEIGHT)
        upper, lower = made.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
        _histogram(upper, times * scale.factor, far)
        _percentiles(lower, measurement, scale)
        if far:
            lower.set_xscale("log")
            _plain_log(lower.xaxis)
        lower.set_xlabel(f"end to end, {scale.unit}{', logarithmic' if far else ''}")
        svg = inline(made, name, f"Latencies of {measurement.conditions.name}", _said(measurement))
    processes = len(measurement.processes)
    thin = f"; a thin line for each of the {processes} processes" if processes > 1 else ""
    return Chart(
        svg,
        f"Above, how often each latency came up in {len(times)} samples. Below, the share of samples that were at most "
        f"so slow, stretched towards the slow ones{thin}. Bars mark 95 % intervals.",
    )


def _histogram(axes: Axes, times: Floats, far: bool) -> None:
    low, high = float(times.min()), float(times.max())
    if high <= low * (1 + 1e-9):
        low, high = low * 0.99, high * 1.01
    edges = np.geomspace(low, high, 61) if far else np.linspace(low, high, 51)
    axes.hist(times, bins=list(edges), histtype="stepfilled", color=BLUE, alpha=0.75)
    axes.set_ylabel("samples")
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)


def _percentiles(axes: Axes, measurement: Measurement, scale: Scale) -> None:
    times = measurement.seconds()
    if len(measurement.processes) > 1:
        for process in measurement.processes:
            axes.plot(*_tail(process.samples.seconds() * scale.factor), color=MUTED, linewidth=0.7, alpha=0.8)
    axes.plot(*_tail(times * scale.factor), color=BLUE, linewidth=1.8)
    highest = max(2.0, float(np.log10(2 * len(times))))
    for q in MARKED:
        _mark(axes, measurement, q, scale, highest)
    levels = [0.0, 0.5, *(1 - 10.0**-k for k in range(1, int(highest) + 1))]
    axes.set_yticks([_stretched(level) for level in levels], [label(level) if level else "0" for level in levels])
    axes.set_ylim(-0.05, highest + 0.35)
    axes.margins(x=0.03)


def _mark(axes: Axes, measurement: Measurement, q: float, scale: Scale, highest: float) -> None:
    """The percentile with its interval, or what it would need, in its own line."""
    value, between, at = measurement.percentile(q), measurement.interval(q), _stretched(q)
    if isinstance(value, TooFew) or isinstance(between, TooFew):
        text = f"{label(q)} {cells.time(value)}"
        axes.text(0.985, at, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=MUTED)
        return
    times = measurement.seconds()
    middle = np.sqrt(times.min() * times.max()) if _far(times) else (times.min() + times.max()) / 2
    right = value <= middle
    low, high = (bound * scale.factor for bound in between)
    axes.plot([low, high], [at, at], color=VERMILLION, linewidth=4, alpha=0.45, solid_capstyle="butt")
    axes.plot([value * scale.factor], [at], color=VERMILLION, marker="o", markersize=5)
    text = f"{label(q)}  {show(value, 's')}"
    offset = (9, -11) if right else (-9, 5)
    axes.annotate(
        text, (max(high, value * scale.factor) if right else min(low, value * scale.factor), at), xytext=offset,
        textcoords="offset points", ha="left" if right else "right", color=INK, fontweight="bold",
    )  # fmt: skip


def _tail(times: Floats) -> tuple[Floats, Floats]:
    """The distribution function at no more points than can be seen, evenly spread over the stretched axis."""
    ordered = np.sort(times)
    heights = _stretched((np.arange(len(ordered)) + 0.5) / len(ordered))
    wanted = np.searchsorted(heights, np.linspace(heights[0], heights[-1], 240))
    picked = np.unique(np.clip(wanted, 0, len(ordered) - 1))
    return ordered[picked], heights[picked]


def _stretched(q: Any) -> Any:
    """Where the percentile ``q`` stands: 0 at 0, 1 at p90, 2 at p99."""
    return -np.log10(1 - q)


def _said(measurement: Measurement) -> str:
    found = [(label(q), measurement.percentile(q)) for q in MARKED]
    return ", ".join(f"{name} {cells.time(value)}" for name, value in found)


def course(measurement: Measurement, name: str) -> Chart:
    """Every pass of every process in the order they were taken, warm-up marked, and telemetry series below.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    spans = _spans(measurement.processes)
    panels = _series(measurement.processes)
    times = measurement.seconds()
    scale = Scale.of(float(np.median(times)))
    with drawing(name):
        made = figure(WIDTH, HEIGHT * 0.72 + PANEL * len(panels))
        every = made.subplots(1 + len(panels), 1, sharex=True, squeeze=False, height_ratios=_heights(len(panels)))
        top, below = every[0, 0], every[1:, 0]
        shared = [
            _passes(top, process, span, scale, spans)
            for process, span in zip(measurement.processes, spans, strict=True)
        ]
        hidden = _fit(top, measurement, spans, scale)
        top.set_ylabel(f"end to end, {scale.unit}")
        _separate(top, spans)
        for axes, found in zip(below, panels, strict=True):
            _panel(axes, found, spans)
        every[-1, 0].set_xlabel("seconds, one process after the other")
        svg = inline(made, name, f"Passes of {measurement.conditions.name} over time", _course_said(measurement))
    return Chart(svg, _course_caption(measurement, max(shared), hidden))


@dataclass(frozen=True)
class Span:
    """Where a process stands on the common axis: the first pass, the begin and the end of its samples, in seconds."""

    begin: float
    sampled: float
    end: float


def _spans(processes: Sequence[Process]) -> list[Span]:
    lengths = []
    for process in processes:
        warm = float(process.first.seconds()[0]) + _length(process.warmup)
        lengths.append((warm, _length(process.samples)))
    gap = 0.02 * sum(warm + sampled for warm, sampled in lengths)
    spans, now = [], 0.0
    for warm, sampled in lengths:
        spans.append(Span(now, now + warm, now + warm + sampled))
        now += warm + sampled + gap
    return spans


def _length(passes: Any) -> float:
    return 0.0 if not len(passes) else float(passes.times()[-1] + passes.seconds()[-1] - passes.times()[0])


def _passes(axes: Axes, process: Process, span: Span, scale: Scale, spans: Sequence[Span]) -> int:
    """Draw the passes of one process; how many share a column at most."""
    whole = spans[-1].end - spans[0].begin
    first = float(process.first.seconds()[0])
    most = 1
    for passes, start, color in (
        (process.first, span.begin, VERMILLION),
        (process.warmup, span.begin + first, VERMILLION),
        (process.samples, span.sampled, BLUE),
    ):
        if not len(passes):
            continue
        at = start + passes.times() - passes.times()[0]
        columns = max(8, round(COLUMNS * (at[-1] - at[0]) / whole))
        thinned = envelope(at, passes.seconds() * scale.factor, columns)
        _dots(axes, thinned, color)
        most = max(most, thinned.most)
    samples = process.samples
    if len(samples) >= 20:
        at = span.sampled + samples.times() - samples.times()[0]
        axes.plot(*running_median(at, samples.seconds() * scale.factor, 40), color=INK, linewidth=1.1)
    return most


def _fit(axes: Axes, measurement: Measurement, spans: Sequence[Span], scale: Scale) -> float | None:
    """An axis that holds every sample; slower passes of the warm-up are marked at its upper edge.

    The slowest of them in seconds, if there are any.
    """
    times = measurement.seconds()
    low, high = float(times.min()), float(times.max())
    if _far(times):
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        low, high = low / 1.3, high * 1.3
    else:
        margin = max(0.5 * (high - low), 0.02 * high)
        low, high = max(0.0, low - margin), high + margin
    axes.set_ylim(low * scale.factor, high * scale.factor)
    hidden = []
    for process, span in zip(measurement.processes, spans, strict=True):
        before = np.concatenate([process.first.seconds(), process.warmup.seconds()])
        if before.max() > high:
            hidden.append(float(before.max()))
            axes.plot(
                [(span.begin + span.sampled) / 2], [0.985], transform=axes.get_xaxis_transform(), color=VERMILLION,
                marker="^", markersize=6, clip_on=False, linestyle="none",
            )  # fmt: skip
    return max(hidden, default=None)


def _dots(axes: Axes, thinned: Envelope, color: str) -> None:
    """One path of upright strokes with round ends: a dot where a column has one value, a bar where it has several."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    ends = np.empty((2 * len(thinned.at), 2))
    ends[0::2, 0] = ends[1::2, 0] = thinned.at
    ends[0::2, 1], ends[1::2, 1] = thinned.low, thinned.high
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], dtype=Path.code_type), len(thinned.at))
    stroke = PathPatch(Path(ends, codes), edgecolor=color, facecolor="none", linewidth=2.0, capstyle="round")
    axes.add_patch(stroke)
    axes.update_datalim(ends)
    axes.autoscale_view()


def _separate(axes: Axes, spans: Sequence[Span]) -> None:
    for i, span in enumerate(spans, start=1):
        axes.axvspan(span.begin, span.sampled, color=VERMILLION, alpha=0.10, linewidth=0)
        if len(spans) > 1:
            axes.text(
                (span.begin + span.end) / 2, 1.02, f"process {i}" if len(spans) < 5 else str(i), ha="center",
                transform=axes.get_xaxis_transform(), color=MUTED, fontsize=9.5,
            )  # fmt: skip
    axes.margins(x=0.01)


def _series(processes: Sequence[Process]) -> list[list[tuple[int, Series]]]:
    """The series of each name, with the number of their process, in the order of their first appearance."""
    found: dict[str, list[tuple[int, Series]]] = {}
    for i, process in enumerate(processes):
        for one in process.telemetry.series:
            if one.values:
                found.setdefault(one.name, []).append((i, one))
    return list(found.values())[:PANELS]


def _heights(panels: int) -> list[float]:
    return [HEIGHT * 0.72, *([PANEL] * panels)]


def _panel(axes: Axes, found: Sequence[tuple[int, Series]], spans: Sequence[Span]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    first = found[0][1]
    for i, series in found:
        at = spans[i].sampled + np.asarray(series.times)
        thinned = envelope(at, np.asarray(series.values, float), COLUMNS // 2)
        axes.fill_between(thinned.at, thinned.low, thinned.high, color=GREEN, alpha=0.3, linewidth=0)
        axes.plot(thinned.at, (thinned.low + thinned.high) / 2, color=GREEN, linewidth=1.4)
    axes.set_title(clean(f"{first.name} ({first.trust})"), fontsize=9.5, color=MUTED, pad=3)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, first.unit)))


def quantity(value: float, unit: str) -> str:
    """A value in SI as a person reads it; units that have no prefixes stay as they are."""
    if unit in UNITS:
        return show(value, unit)
    if unit == "share":
        return f"{value:.1%}"
    if unit == "J":
        return show(value, "W").replace("W", "J")
    if unit == "degC":
        return f"{value:.4g} °C"
    return f"{value:.4g} {unit}".strip()


def _course_said(measurement: Measurement) -> str:
    medians = ", ".join(show(median, "s") for median in measurement.process_medians())
    return f"Median of each process in turn: {medians}"


def _course_caption(measurement: Measurement, most: int, hidden: float | None) -> str:
    warmup = sum(len(process.warmup) for process in measurement.processes)
    text = f"Every pass: the first and {warmup} of warm-up (shaded), then the samples with their running median."
    if hidden is not None:
        text += f" A triangle: warm-up went beyond the axis, up to {show(hidden, 's')}."
    if most > 1:
        text += f" Up to {most} passes share a column, which reaches from the fastest to the slowest of them."
    if any(process.telemetry.series for process in measurement.processes):
        text += " Below, what was read meanwhile."
    return text


def _far(times: Floats) -> bool:
    return bool(times.min() > 0 and times.max() > FAR * np.median(times))


def _plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
