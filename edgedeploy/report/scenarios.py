"""What only some scenarios have: deadlines that were missed, and the speed over a sustained run."""

from __future__ import annotations

import numpy as np

from edgedeploy.bench.endurance import Endurance
from edgedeploy.bench.outcome import Metric, Outcome
from edgedeploy.report.charts import BLUE, GREEN, HEIGHT, VERMILLION, WIDTH, Chart, Scale, figure
from edgedeploy.report.svg import INK, drawing, inline
from edgedeploy.units import show

Facts = tuple[tuple[str, str, str], ...]


def facts(found: Outcome) -> Facts:
    """Numbers of the scenario: name, value, and what qualifies it."""
    said: list[tuple[str, str, str]] = []
    if found.mlperf is not None:
        said.append((f"MLPerf's {found.mlperf.name}", _metric(found.mlperf), "an upper bound, with 99 % confidence"))
    schedule, endurance = found.schedule, found.endurance
    if schedule is not None:
        if schedule.misses is not None and schedule.misses_interval is not None:
            low, high = schedule.misses_interval
            split = f"{schedule.late} late and {schedule.unanswered} unanswered of {schedule.queries} queries"
            said.append(("missed the deadline", f"{schedule.misses:.2%}", f"{low:.2%} to {high:.2%}; {split}"))
        before = "" if schedule.back_to_back is None else f"{show(schedule.back_to_back, 's')} back to back before"
        late = f"at most {show(schedule.wake_up_latest, 's')}"
        said += [
            ("an answer takes", show(schedule.service, "s"), before),
            ("the timer was late", show(schedule.wake_up, "s"), late),
        ]
    if endurance is not None:
        throttled = endurance.throttled
        said += [
            ("sustained over peak speed", f"{endurance.ratio:.1%}", ""),
            ("fastest level", show(endurance.peak, "s"), ""),
            ("level at the end", show(endurance.sustained, "s"), ""),
            ("time to throttle", "never" if throttled is None else show(throttled, "s"), ""),
        ]
    return tuple(said)


def curve(found: Endurance, name: str) -> Chart:
    """The median of each window of a sustained run, with the fastest and the last level.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    scale = Scale.of(found.peak)
    with drawing(name):
        made = figure(WIDTH, HEIGHT * 0.8)
        axes = made.subplots()
        minutes = np.asarray(found.times) / 60
        axes.plot(minutes, np.asarray(found.medians) * scale.factor, color=BLUE, marker="o", markersize=3)
        for level, color, text in ((found.peak, GREEN, "fastest level"), (found.sustained, VERMILLION, "at the end")):
            axes.axhline(level * scale.factor, color=color, linewidth=1.2, linestyle="--")
            axes.annotate(
                f"{text} {show(level, 's')}", (0.99, level * scale.factor), xycoords=("axes fraction", "data"),
                xytext=(0, 4), textcoords="offset points", ha="right", color=INK, fontsize=9.5,
            )  # fmt: skip
        if found.throttled is not None:
            axes.axvline(found.throttled / 60, color=VERMILLION, linewidth=1)
        axes.margins(y=0.2)
        axes.set_xlabel("minutes")
        axes.set_ylabel(f"median of a window, {scale.unit}")
        said = f"From {show(found.peak, 's')} to {show(found.sustained, 's')}: {found.ratio:.1%} of the peak speed"
        svg = inline(made, name, "Speed over the sustained run", said)
    text = "The sustained run: the median of each window; below is faster."
    if found.throttled is not None:
        text += f" The upright line marks where it first became slower, after {show(found.throttled, 's')}."
    return Chart(svg, text)


def _metric(metric: Metric) -> str:
    if metric.value is None:
        return f"needs {metric.needed} samples"
    return f"{metric.value:.2%}" if metric.unit == "" else show(metric.value, metric.unit)
