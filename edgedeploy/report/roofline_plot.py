"""The roofline as a picture: operations per second over operations per byte, a dot per node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.facts import Quantity
from edgedeploy.roofline import NodeRoof, Roofs, Why
from edgedeploy.roofline.roofs import percent
from edgedeploy.units import show

_SUFFIXES = (".png", ".svg", ".pdf")
#: Kinds beyond these are drawn together.
KINDS = 6
#: So many of the longest nodes have their names beside them, where there is room.
NAMED = 4
#: Okabe and Ito's colours, which stay apart for colour-blind readers; grey for what is left.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_REST, _INK, _FAINT = "#9AA0A6", "#202124", "#DADCE0"
#: Area of the dot of a node that takes the whole pass, in square points.
_AREA = 9000.0


def check(path: Path) -> None:
    """Refuse what cannot be drawn, before anything takes time.

    Raises:
        UsageError: not a picture's suffix, or no such folder.
        Unavailable: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES or not path.parent.is_dir():
        raise UsageError(f"{path} is no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file in a folder that exists.")
    _pyplot()


def draw(why: Why, path: Path) -> Path:
    """Write the picture of a pass to ``path`` and return it.

    Nodes that compute nothing, or of which operations or bytes are not known, have no place in it; a line below says
    what share of the pass they are.

    Raises:
        UsageError: see `check`; or no node has both.
        Unavailable: matplotlib is not installed.
    """
    check(path)
    placed = [n for n in why.roofline.nodes if n.flops and n.bytes and n.seconds > 0]
    if not placed:
        raise UsageError(f"There is no roofline to draw of {why.name}: operations or bytes of its nodes are not known.")
    pyplot = _pyplot()
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgedeploy"}):
        figure, axes = pyplot.subplots(figsize=(10, 6.4), dpi=160)
        try:
            _frame(axes, placed, why.roofline.roofs)
            _roofs(axes, why.roofline.roofs, sorted({node.dtype for node in placed}))
            _dots(axes, placed, why.roofline.whole)
            _words(figure, why, placed)
            figure.savefig(path)
        finally:
            pyplot.close(figure)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise Unavailable.extra("matplotlib, which draws plots,", "report") from error
    return pyplot


def _intensity(node: NodeRoof) -> float:
    return (node.flops or 0) / (node.bytes or 1)


def _frame(axes: Any, nodes: Sequence[NodeRoof], roofs: Roofs) -> None:
    """Log axes around the dots and the ridges, with quiet lines."""
    intensities = [_intensity(node) for node in nodes]
    rates = [node.attained or 1.0 for node in nodes]
    bandwidth = roofs.bandwidth.si
    peaks = [peak for peak in (roofs.peak(node.dtype) for node in nodes) if peak is not None]
    ridges = [peak / bandwidth for peak in peaks] if bandwidth else []
    low, high = min(intensities) / 2.5, max([*intensities, *ridges, 1.0]) * 4
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_ylim(min(rates) / 3, max([*rates, *peaks]) * 2.6)
    axes.grid(True, which="major", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=9, colors=_INK)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set_color(_REST)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: show(value, "OP/s", 1).replace("OP/s", ""))
    axes.set_xlabel("operations per byte moved", fontsize=10, color=_INK)
    axes.set_ylabel("operations per second", fontsize=10, color=_INK)


def _roofs(axes: Any, roofs: Roofs, dtypes: Sequence[str]) -> None:
    """The slope of the bandwidth up to the highest peak, and a level per precision from where it leaves the slope."""
    left, right = axes.get_xlim()
    known = {dtype: peak for dtype in dtypes if (peak := roofs.peak(dtype)) is not None}
    bandwidth = roofs.bandwidth.si
    for dtype, peak in known.items():
        start = max(left, peak / bandwidth) if bandwidth else left
        axes.plot([start, right], [peak, peak], color=_INK, linewidth=1.5, zorder=3)
        _say(axes, f"{dtype}\n{roofs.peaks[dtype]}\n{_kind(roofs.peaks[dtype])}", (right, peak), (7, 0), va="center")
    if bandwidth is None:
        return
    end = min(right, max(known.values(), default=bandwidth * right) / bandwidth)
    axes.plot([left, end], [left * bandwidth, end * bandwidth], color=_INK, linewidth=1.5, zorder=3)
    at = max(left, axes.get_ylim()[0] / bandwidth) * 1.25
    text = f"bandwidth {roofs.bandwidth}, {_kind(roofs.bandwidth)}"
    turned = {"rotation": _slope(axes, at, bandwidth), "rotation_mode": "anchor", "va": "top"}
    _say(axes, text, (at, at * bandwidth), (3, -5), **turned)


def _say(axes: Any, text: str, at: tuple[float, float], offset: tuple[int, int], **how: Any) -> None:
    """Words beside a point, readable over whatever is drawn there."""
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    said = axes.annotate(text, at, offset, textcoords="offset points", fontsize=9, color=_INK, zorder=5, **how)
    said.set(path_effects=halo, annotation_clip=False)


def _slope(axes: Any, at: float, bandwidth: float) -> float:
    """Degrees at which the bandwidth rises on the paper."""
    (x0, y0), (x1, y1) = axes.transData.transform([(at, at * bandwidth), (2 * at, 2 * at * bandwidth)])
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def _kind(fact: Quantity) -> str:
    """Where a roof comes from, in a word."""
    return {"official": "as its maker says", "third_party": "third party"}.get(fact.kind, fact.kind)


def _dots(axes: Any, nodes: Sequence[NodeRoof], whole: float) -> None:
    times: dict[str, float] = {}
    for node in nodes:
        times[node.kind] = times.get(node.kind, 0.0) + node.seconds
    ranked = sorted(times, key=lambda kind: -times[kind])
    colors = dict(zip(ranked[:KINDS], _COLORS, strict=False))
    handles = []
    for kind in [*ranked[:KINDS], None]:
        group = [node for node in nodes if (node.kind == kind if kind else node.kind not in colors)]
        if not group:
            continue
        share = sum(node.seconds for node in group) / whole
        handles.append(
            axes.scatter(
                [_intensity(node) for node in group],
                [node.attained for node in group],
                s=[max(14.0, _AREA * node.seconds / whole) for node in group],
                color=colors.get(kind or "", _REST),
                alpha=0.55,
                edgecolor="white",
                linewidth=0.7,
                label=f"{kind or 'others'}, {percent(share)} of the pass",
                zorder=2,
            )
        )
    _names(axes, sorted(nodes, key=lambda node: -node.seconds)[:NAMED], whole)
    legend = axes.legend(handles=handles, loc="lower right", frameon=True, fontsize=9, labelcolor=_INK)
    legend.get_frame().set(edgecolor=_FAINT, facecolor="white", alpha=0.92)
    for handle in legend.legend_handles:
        handle.set_sizes([60.0])


def _names(axes: Any, nodes: Sequence[NodeRoof], whole: float) -> None:
    """Names below their dots; one that would run over another is left out."""
    taken: list[tuple[float, float]] = []
    for node in nodes:
        at = (_intensity(node), node.attained or 0.0)
        below = -round(math.sqrt(_AREA * node.seconds / whole / math.pi)) - 3
        x, y = (value * 72 / axes.figure.dpi for value in axes.transData.transform(at))
        if all(abs(x - other) > 110 or abs(y + below - line) > 13 for other, line in taken):
            taken.append((x, y + below))
            name = node.name if len(node.name) <= 24 else f"{node.name[:21]}..."
            _say(axes, name, at, (0, below), ha="center", va="top")


def _words(figure: Any, why: Why, placed: Sequence[NodeRoof]) -> None:
    roofline = why.roofline
    title = f"{why.name} in {why.precision}, {why.backend} {why.version}, {why.threads} thread"
    title += "" if str(why.threads) == "1" else "s"
    figure.text(0.065, 0.955, title, fontsize=13, weight="bold", color=_INK)
    flops = show(roofline.flops or 0, "FLOP/s")[:-2]
    parts = [f"{show(roofline.seconds, 's')} a pass", flops]
    if roofline.of_peak is not None:
        parts.append(f"{percent(roofline.of_peak)} of the dense peak")
    if roofline.of_bandwidth is not None:
        parts.append(f"{percent(roofline.of_bandwidth)} of the bandwidth")
    figure.text(0.065, 0.915, "   ·   ".join(parts), fontsize=10, color="#5F6368")
    left = 1 - sum(node.seconds for node in placed) / roofline.whole
    told = f"A dot is a node, its area its share of the pass. Without operations, and not drawn: {percent(left)} of it."
    figure.text(0.065, 0.02, told, fontsize=8.5, color="#5F6368")
    figure.subplots_adjust(left=0.075, right=0.885, top=0.885, bottom=0.125)
