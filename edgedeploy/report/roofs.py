"""The roofline in a page, from what ``edgedeploy why --json`` printed: what nodes attain, and what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import UsageError
from edgedeploy.facts import Bandwidth
from edgedeploy.records import from_json
from edgedeploy.report.charts import HEIGHT, WIDTH, Chart, figure
from edgedeploy.report.svg import INK, MUTED, SERIES, clean, drawing, inline
from edgedeploy.roofline import Cause, NodeRoof
from edgedeploy.roofline.roofs import percent
from edgedeploy.units import parse, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Kinds of nodes that get a colour of their own; area of the dot of a node that is the whole pass, in square points.
KINDS, AREA = 5, 2600.0
#: What the bandwidth is called among the roofs.
BANDWIDTH = "bandwidth"


@dataclass(frozen=True)
class Roof:
    """A roof as its source states it: "102 GFLOP/s", "30 GB/s", or unknown."""

    value: str | None = None
    kind: str = "unknown"
    source: str = ""
    low: str | None = None
    high: str | None = None

    def si(self, unit: str) -> float | None:
        """The number; a dense peak of integers is in OP/s, and counts like one in FLOP/s."""
        if self.value is None:
            return None
        units = (unit,) if unit == Bandwidth.unit else ("FLOP/s", "OP/s")
        for one in units:
            try:
                return parse(self.value, one)
            except UsageError:
                continue
        return None


@dataclass(frozen=True)
class Explained:
    """A pass that was profiled, node by node; fields as in `edgedeploy.report.why.summary`."""

    name: str
    backend: str
    version: str
    precision: str
    seconds: float
    flops: int | None
    bytes: int | None
    of_peak: float | None
    of_bandwidth: float | None
    device: str
    unit: str
    roofs: Mapping[str, Roof]
    causes: tuple[Cause, ...]
    nodes: tuple[NodeRoof, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any], where: str) -> Explained:
        """What ``plain`` says; what else is in it is left.

        Raises:
            UsageError: it is no such document; ``where`` names it.
        """
        names = {field.name for field in fields(cls)}
        return from_json(cls, {key: value for key, value in plain.items() if key in names}, where)

    @property
    def headline(self) -> str:
        """The pass in one line."""
        parts = [f"{show(self.seconds, 's')} a pass of the graph"]
        for share, what in ((self.of_peak, "the dense peak"), (self.of_bandwidth, "the bandwidth")):
            parts.append(f"share of {what} unknown" if share is None else f"{percent(share)} of {what}")
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """Each cause with what can be done, longest first."""
        return [f"{percent(cause.share)} {cause.kind}: {cause.sentence} {cause.remedy}" for cause in self.causes]


def chart(explained: Explained, name: str) -> Chart | None:
    """Operations per second over operations per byte, a dot per node; ``None`` where no node has both.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    placed = [node for node in explained.nodes if node.flops and node.bytes and node.seconds > 0]
    if not placed:
        return None
    whole = max(sum(node.seconds for node in explained.nodes), explained.seconds, 1e-12)
    with drawing(name):
        made = figure(WIDTH, HEIGHT * 1.1)
        axes = made.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        _dots(axes, placed, whole)
        _roofs(axes, explained, placed)
        axes.set_xlabel("operations per byte moved")
        axes.set_ylabel("operations per second")
        axes.yaxis.set_major_formatter(lambda value, _: show(value, "OP/s", 1).removesuffix("OP/s").strip())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        key = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, labelcolor=INK, handletextpad=0.2)
        for handle in key.legend_handles:
            getattr(handle, "set_sizes", lambda sizes: None)([40.0])
        svg = inline(made, name, f"Roofline of {explained.name} on {explained.device}", explained.headline)
    left = 1 - sum(node.seconds for node in placed) / whole
    return Chart(
        svg,
        f"A dot is a node, its area its share of the pass; lines are what {explained.device} could do at most. "
        f"Nodes without operations are not drawn: {percent(max(0.0, left))} of the pass.",
    )


def _dots(axes: Axes, placed: list[NodeRoof], whole: float) -> None:
    times: dict[str, float] = {}
    for node in placed:
        times[node.kind] = times.get(node.kind, 0.0) + node.seconds
    ranked = sorted(times, key=lambda kind: (-times[kind], kind))
    for number, kind in enumerate([*ranked[:KINDS], None]):
        group = [n for n in placed if (n.kind == kind if kind else n.kind in ranked[KINDS:])]
        if group:
            share = percent(sum(node.seconds for node in group) / whole)
            axes.scatter(
                [(node.flops or 0) / (node.bytes or 1) for node in group],
                [(node.flops or 0) / node.seconds for node in group],
                s=[max(10.0, AREA * node.seconds / whole) for node in group],
                color=SERIES[number] if kind else MUTED, alpha=0.6, linewidth=0,
                label=clean(f"{kind or 'others'}, {share} of the pass"),
            )  # fmt: skip


def _roofs(axes: Axes, explained: Explained, placed: list[NodeRoof]) -> None:
    """The slope of the bandwidth up to the highest peak, and a level for each peak."""
    bandwidth = explained.roofs.get(BANDWIDTH, Roof()).si("B/s")
    peaks = {
        key: peak
        for key, roof in explained.roofs.items()
        if key != BANDWIDTH and (peak := roof.si("FLOP/s")) is not None
    }
    left, right = (bound * factor for bound, factor in zip(axes.get_xlim(), (0.7, 1.5), strict=True))
    ridges = [peak / bandwidth for peak in peaks.values()] if bandwidth else []
    right = max(right, *(2 * ridge for ridge in ridges), left * 2)
    for key, peak in peaks.items():
        start = max(left, peak / bandwidth) if bandwidth else left
        axes.plot([start, right], [peak, peak], color=INK, linewidth=1.3)
        axes.annotate(
            f"{key.removeprefix('dense peak in ')} {show(peak, 'OP/s')}", (right, peak), xytext=(-2, 11),
            textcoords="offset points", ha="right", fontsize=9.5,
        )  # fmt: skip
    if bandwidth:
        end = min(right, max(peaks.values(), default=bandwidth * right) / bandwidth)
        low = min((node.flops or 0) / node.seconds for node in placed) / 2
        start = max(left, low / bandwidth)
        axes.plot([start, end], [start * bandwidth, end * bandwidth], color=INK, linewidth=1.3)
        axes.annotate(
            f"bandwidth {show(bandwidth, 'B/s')}", (start, start * bandwidth), xytext=(6, 0),
            textcoords="offset points", ha="left", va="top", fontsize=9.5,
        )  # fmt: skip
    axes.set_xlim(left, right)
