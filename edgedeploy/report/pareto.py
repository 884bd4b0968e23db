"""Accuracy over latency: which artifacts nobody would trade for another, per device and only among comparable ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.records import canonical, to_json
from edgedeploy.report.charts import BLUE, GREEN, HEIGHT, VERMILLION, WIDTH, Chart, Scale, figure
from edgedeploy.report.entry import Entry, Row
from edgedeploy.report.svg import INK, MUTED, PAPER, clean, drawing, inline
from edgedeploy.units import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgedeploy.predict.prediction import Prediction

#: Latencies further apart than this stand on a logarithmic axis.
APART = 10.0
#: Points between the baselines of two labels, and the width of a character of theirs.
LINE, LETTER = 12.0, 5.6


@dataclass(frozen=True)
class Point:
    """One artifact: seconds and a metric, each with bounds; ``group`` is equal for those that may be compared."""

    label: str
    device: str
    group: str
    latency: float
    latency_bounds: tuple[float, float] | None
    accuracy: float
    accuracy_bounds: tuple[float, float] | None
    predicted: bool = False


def points(entries: Sequence[Entry], rows: Sequence[Row]) -> tuple[Point, ...]:
    """A point per entry that has both numbers."""
    found = []
    several = len({row.scenario for row in rows}) > 1
    for entry, row in zip(entries, rows, strict=True):
        if row.accuracy is None or isinstance(row.p50, TooFew):
            continue
        known = row.accuracy
        bounds = None if isinstance(row.p50_interval, TooFew) else row.p50_interval
        around = (known.reference + known.low, known.reference + known.high)
        name = " ".join(filter(None, (row.model, row.backend, row.precision, row.scenario if several else None)))
        found.append(Point(name, row.device, _group(entry), row.p50, bounds, known.value, around))
    return tuple(found)


def predicted_points(predictions: Iterable[Prediction], rows: Sequence[Row]) -> tuple[Point, ...]:
    """Predicted latencies of artifacts whose accuracy was measured, on whatever device; no two of them are ever joined.

    What an artifact finds in an image does not depend on how fast it is; that it computes the same there is assumed.
    """
    known = {(row.model, row.precision): row.accuracy.value for row in rows if row.accuracy is not None}
    found = []
    for number, one in enumerate(predictions):
        accuracy, setting = known.get((one.graph, one.setting.precision)), one.setting
        if accuracy is not None:
            name, bounds = f"{one.graph} {setting.runtime} {setting.precision}", (one.low, one.high)
            group = f"predicted {number}"
            found.append(Point(name, setting.device, group, one.seconds, bounds, accuracy, None, predicted=True))
    return tuple(found)


def _group(entry: Entry) -> str:
    """What has to be equal before one artifact can be said to be better than another: all that was not its choice.

    Backend, precision, input size and the options of a runtime are choices; machine, scenario and data are not.
    """
    measurement = entry.measurement
    conditions, environment = measurement.conditions, measurement.environment
    said: dict[str, Any] = {"place": measurement.place.device, "scenario": conditions.scenario}
    for key in ("threads", "batch", "sample_shape", "includes", "mean_of"):
        said[key] = getattr(conditions, key)
    for key in ("machine", "affinity", "cpu_limit", "governor", "turbo", "kernel"):
        said[key] = getattr(environment, key)
    if entry.accuracy is not None:
        said["data"] = entry.accuracy.data
    return hashlib.sha256(canonical(to_json(said))).hexdigest()


def front(found: Iterable[Point]) -> tuple[Point, ...]:
    """Those that no other one beats in both, from the fastest to the most accurate."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda p: (p.latency, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return tuple(kept)


def chart(device: str, found: Sequence[Point], metric: str, name: str) -> Chart:
    """All points of one device; the front of each comparable group is joined, predictions are hollow.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    measured = [point for point in found if not point.predicted]
    groups = list(dict.fromkeys(point.group for point in measured))
    scale = Scale.of(min(point.latency for point in found))
    with drawing(name):
        made = figure(WIDTH, HEIGHT)
        axes = made.subplots()
        best = [point for group in groups for point in front(p for p in measured if p.group == group)]
        for group in groups:
            joined = [point for point in best if point.group == group]
            axes.step(
                [p.latency * scale.factor for p in joined], [p.accuracy for p in joined], where="post",
                color=GREEN, linewidth=1.4, linestyle="--",
            )  # fmt: skip
        for point in found:
            _draw(axes, point, point in best, scale)
        latencies = [point.latency for point in found]
        far = max(latencies) > APART * min(latencies)
        if far:
            axes.set_xscale("log")
        axes.margins(0.16)
        axes.set_xlabel(f"p50 end to end, {scale.unit}{', logarithmic' if far else ''}")
        axes.set_ylabel(metric)
        made.draw_without_rendering()
        _write_labels(axes, found, scale)
        said = "; ".join(f"{p.label}: {show(p.latency, 's')}, {p.accuracy:.4f}" for p in found)
        svg = inline(made, name, f"{metric} over latency on {device}", said)
    return Chart(svg, _caption(found, len(groups)))


def _caption(found: Sequence[Point], groups: int) -> str:
    text = (
        "Green: the front, which no other artifact beats in both. Bars: the 95 % interval of p50, and the interval of "
        "the difference from the checkpoint in FP32 on the same images."
    )
    if groups > 1:
        text += f" Only comparable ones are joined: there are {groups} sets of conditions or data."
    if any(point.predicted for point in found):
        text += " Hollow diamonds are predictions, and nothing was measured there."
    return text


def _draw(axes: Axes, point: Point, best: bool, scale: Scale) -> None:
    color = VERMILLION if point.predicted else GREEN if best else BLUE
    x, y = point.latency * scale.factor, point.accuracy
    style: dict[str, Any] = {"color": color, "linewidth": 1.2, "linestyle": ":" if point.predicted else "-"}
    if point.latency_bounds is not None:
        axes.plot([bound * scale.factor for bound in point.latency_bounds], [y, y], **style)
    if point.accuracy_bounds is not None:
        axes.plot([x, x], list(point.accuracy_bounds), **style)
    axes.plot(
        [x], [y], marker="D" if point.predicted else "o", markersize=7 if best else 6, color=color, linestyle="none",
        markerfacecolor=PAPER if point.predicted else color, alpha=1.0 if best or point.predicted else 0.7,
    )  # fmt: skip


def _write_labels(axes: Axes, found: Sequence[Point], scale: Scale) -> None:
    """Each beside its point, on the side with more room, moved down where it would cover one above it."""
    box = axes.get_window_extent()
    zoom = 72 / axes.figure.dpi
    taken: list[tuple[float, float, float]] = []
    for point in sorted(found, key=lambda p: -p.accuracy):
        x, y = axes.transData.transform((point.latency * scale.factor, point.accuracy)) * zoom
        right = x < (box.x0 + box.x1) / 2 * zoom
        text = clean(point.label) + (" (predicted)" if point.predicted else "")
        length = LETTER * len(text)
        left_end = x + 8 if right else x - 8 - length
        while any(
            abs(y - other) < LINE and left_end < end and begin < left_end + length for begin, end, other in taken
        ):
            y -= 1.0
        taken.append((left_end, left_end + length, y))
        base = axes.transData.transform((point.latency * scale.factor, point.accuracy)) * zoom
        axes.annotate(
            text, (point.latency * scale.factor, point.accuracy), xytext=(8 if right else -8, y - base[1] + 4),
            textcoords="offset points", ha="left" if right else "right", fontsize=9.5,
            color=MUTED if point.predicted else INK, annotation_clip=False,
        )  # fmt: skip
