"""A search of prune ratios as a table and a picture; records without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import UsageError
from edgedeploy.report import labels
from edgedeploy.report.charts import Scale, figure
from edgedeploy.report.compression.chart import COLORS, HEIGHT, WIDTH
from edgedeploy.report.markdown import escaped
from edgedeploy.report.pareto import Point, front
from edgedeploy.report.svg import INK, MUTED, PAPER, SERIES, STYLE, drawing
from edgedeploy.units import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What has to be said with every accuracy of a search.
REMARK = "Accuracy before fine-tuning ranks pruned networks; it does not predict what fine-tuning will bring back."


@dataclass(frozen=True)
class Tried:
    """One trial.

    Args:
        number: from 0.
        ratios: share of the channels removed, by block.
        ap50: on the images of the search; ``drop`` is that of the unpruned network less it, on the same images.
        drop_low: lower end of the paired interval of ``drop``, ``drop_high`` the upper.
        predicted: seconds of a pass.
        measured: seconds of a pass with both ends of their interval, where it was timed.
        params: of the pruned network.
    """

    number: int
    ratios: Mapping[str, float]
    ap50: float
    drop: float
    drop_low: float
    drop_high: float
    predicted: float
    measured: tuple[float, float, float] | None
    params: int

    @property
    def seconds(self) -> float:
        """Measured where it was, else predicted."""
        return self.measured[0] if self.measured else self.predicted


@dataclass(frozen=True)
class SearchTable:
    """All of it: ``chosen`` is a trial's number, ``limit`` and ``floor`` what the goal asks of seconds and AP50."""

    goal: str
    sentence: str
    device: str
    images: int
    recovery: str
    trials: tuple[Tried, ...]
    chosen: int | None
    limit: float | None = None
    floor: float | None = None
    notes: tuple[str, ...] = ()
    schema: int = 1

    @property
    def front(self) -> tuple[int, ...]:
        """Numbers of the trials that no other one beats in both, from the fastest to the most accurate."""
        return tuple(int(point.label) for point in front(_points(self)))


def markdown(table: SearchTable) -> str:
    """A document: what was found, all trials, and the ratios of the front."""
    best, blocks = table.front, list(table.trials[0].ratios) if table.trials else []
    lines = [f"# Search of prune ratios: {escaped(table.goal)}", "", escaped(table.sentence), ""]
    lines += [f"- {escaped(one)}" for one in (*table.notes, REMARK)]
    lines += ["", f"AP50 on {table.images} images, {escaped(table.recovery)}. Latency on {escaped(table.device)}.", ""]
    header = ("trial", "AP50", "loss", "90 % interval", "predicted", "measured", "95 % interval", "params", "")
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for one in table.trials:
        low, high = (show(value, "s") for value in one.measured[1:]) if one.measured else ("", "")
        marks = " ".join(
            w for w, holds in (("front", one.number in best), ("chosen", one.number == table.chosen)) if holds
        )
        cells = (
            *(str(one.number), f"{one.ap50:.4f}", f"{one.drop:.4f}", f"{one.drop_low:.4f} to {one.drop_high:.4f}"),
            *(show(one.predicted, "s"), show(one.measured[0], "s") if one.measured else ""),
            *(f"{low} to {high}" if one.measured else "", f"{one.params:,}", marks),
        )
        lines.append("| " + " | ".join(cells) + " |")
    shown = [one for one in table.trials if one.number in best or one.number == table.chosen]
    lines += ["", "Share of channels removed, by block:", ""]
    lines += [
        "| block | " + " | ".join(f"trial {one.number}" for one in shown) + " |",
        "|" + " --- |" * (len(shown) + 1),
    ]
    lines += [f"| {block} | " + " | ".join(f"{one.ratios[block]:.2f}" for one in shown) + " |" for block in blocks]
    return "\n".join(lines) + "\n"


def picture(table: SearchTable, path: Path) -> Path:
    """AP50 over latency, a point per trial; the front is joined, measured ones are filled, the goal is a line.

    Raises:
        UsageError: there is no trial, or not a picture's suffix.
        Unavailable: matplotlib is not installed.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{path} is no .png, .svg or .pdf file.")
    if not table.trials:
        raise UsageError("There is nothing to plot: no trial is finished.")
    with drawing("search"):
        import matplotlib as mpl

        style = {key: COLORS.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
        with mpl.rc_context(style):
            made = figure(WIDTH, HEIGHT)
            _draw(made.subplots(), table)
            made.savefig(path, dpi=160, facecolor=COLORS[PAPER])
    return path


def _draw(axes: Axes, table: SearchTable) -> None:
    best = set(table.front)
    scale = Scale.of(min(one.seconds for one in table.trials))
    blue, orange, green = (COLORS[color] for color in SERIES[:3])
    joined = sorted((one for one in table.trials if one.number in best), key=lambda one: one.seconds)
    axes.step(
        [one.seconds * scale.factor for one in joined], [one.ap50 for one in joined],
        where="post", color=green, linewidth=1.3, linestyle="--",
    )  # fmt: skip
    for one in table.trials:
        color = orange if one.number == table.chosen else green if one.number in best else blue
        x = one.seconds * scale.factor
        if one.measured:
            axes.plot([value * scale.factor for value in one.measured[1:]], [one.ap50] * 2, color=color, linewidth=1.2)
        axes.plot(
            [x], [one.ap50], marker="o" if one.measured else "D", markersize=7 if one.number in best else 5,
            color=color, markerfacecolor=color if one.measured else COLORS[PAPER], linestyle="none",
        )  # fmt: skip
    if table.limit is not None:
        axes.axvline(table.limit * scale.factor, color=COLORS[MUTED], linewidth=1.0, linestyle=":")
    if table.floor is not None:
        axes.axhline(table.floor, color=COLORS[MUTED], linewidth=1.0, linestyle=":")
    axes.margins(0.12)
    axes.set_xlabel(f"a pass on {table.device}, {scale.unit}; filled: measured, hollow: predicted")
    axes.set_ylabel(f"AP50 on {table.images} images, before fine-tuning")
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the figure, which lays out its axes
    named = [
        labels.Named(f" {one.number} ", one.seconds * scale.factor, one.ap50)
        for one in table.trials
        if one.number in best or one.number == table.chosen
    ]
    labels.write(axes, named, COLORS[INK], COLORS[MUTED])


def _points(table: SearchTable) -> list[Point]:
    return [Point(str(one.number), "", "", one.seconds, None, one.ap50, None) for one in table.trials]
