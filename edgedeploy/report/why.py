"""Why a pass takes as long as it does, as rows, lines and a plain mapping. Pure functions: nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgedeploy.facts import Quantity
from edgedeploy.roofline import Cause, NodeRoof, Roofline, Why
from edgedeploy.roofline.roofs import percent
from edgedeploy.units import show

#: Rows of the table of nodes.
TOP = 10
#: Parts of a pass that add up to something else by more than this share of it are told.
APART = 0.1
NODE_HEADER = ("node", "kind", "time", "share", "operations", "of peak", "bandwidth", "bound by")
KIND_HEADER = ("kind", "nodes", "time", "share", "operations", "of peak", "bandwidth", "bytes")


def headline(why: Why) -> list[str]:
    """What a pass takes and costs, and how much of the device that is."""
    roofline = why.roofline
    threads = f"{why.threads} thread" + ("" if str(why.threads) == "1" else "s")
    batch = "" if why.batch == 1 else f", batch {why.batch}"
    lines = [
        f"{why.name} in {why.precision} on {why.backend} {why.version}, {threads}{batch}: "
        f"{show(roofline.seconds, 's')} a pass of the graph",
        f"{costs(roofline)}; {share_of(roofline.of_peak, 'the dense peak')}, "
        f"{share_of(roofline.of_bandwidth, 'the bandwidth')}",
        f"profiled by {roofline.source}: median of {roofline.passes} passes, which take "
        f"{roofline.profiled / max(roofline.seconds, 1e-12):.2f} times as long with it",
    ]
    lines += roofline.roofs.notes
    if abs(roofline.seconds - roofline.whole) > APART * roofline.seconds:
        total = show(roofline.whole, "s")
        lines.append(f"Medians of its parts add up to {total}, of which shares are: other work interrupted passes.")
    return [*lines, *(f"Of the costs: {note}" for note in roofline.notes)]


def costs(roofline: Roofline) -> str:
    """Operations and bytes of a pass."""
    flops = "operations unknown" if roofline.flops is None else f"{show(roofline.flops, 'FLOP/s')[:-2]} a pass"
    size = "bytes unknown" if roofline.bytes is None else f"{show(roofline.bytes, 'B')} moved between nodes"
    return f"{flops}, {size}"


def share_of(share: float | None, what: str) -> str:
    """``23 % of the dense peak``, or that it is not known."""
    return f"share of {what} unknown" if share is None else f"{percent(share)} of {what}"


def roofs(roofline: Roofline) -> list[tuple[str, Quantity]]:
    """Every roof that a node was measured against; unknown ones are among them."""
    used = sorted({node.dtype for node in roofline.nodes if node.flops and node.dtype in roofline.roofs.peaks})
    peaks: list[tuple[str, Quantity]] = [(f"dense peak in {dtype}", roofline.roofs.peaks[dtype]) for dtype in used]
    return [*peaks, ("bandwidth", roofline.roofs.bandwidth)]


def roof_lines(roofline: Roofline) -> list[str]:
    """The roofs in words, with where they come from."""
    return [f"{name}: {roof}{_source(roof)}" for name, roof in roofs(roofline)]


def _source(fact: Quantity) -> str:
    return f" ({fact.kind}: {fact.source.partition(': ')[0]})" if fact.value is not None else ""


def node_rows(roofline: Roofline, top: int = TOP) -> list[tuple[str, ...]]:
    """The nodes with the most time under `NODE_HEADER`."""
    ranked = sorted(roofline.nodes, key=lambda node: -node.seconds)[:top]
    return [(_short(node.name), _kind(node), *_cells([node], roofline)[:-1], node.bound) for node in ranked]


def kind_rows(roofline: Roofline) -> list[tuple[str, ...]]:
    """Time by kind of node, and in none, under `KIND_HEADER`; kinds with less than half a hundredth together."""
    groups: dict[str, list[NodeRoof]] = {}
    for node in roofline.nodes:
        groups.setdefault(_kind(node), []).append(node)
    ranked = sorted(groups.items(), key=lambda item: -_seconds(item[1]))
    told = [(kind, nodes) for kind, nodes in ranked if _seconds(nodes) >= 5e-3 * roofline.whole]
    rest = [node for kind, nodes in ranked if (kind, nodes) not in told for node in nodes]
    rows = [(kind, str(len(nodes)), *_cells(nodes, roofline)) for kind, nodes in told]
    if rest:
        rows.append(("others", str(len(rest)), *_cells(rest, roofline)))
    if roofline.outside > 0:
        share = percent(roofline.outside / roofline.whole)
        rows.append(("in no node", "-", show(roofline.outside, "s"), share, "-", "-", "-", "-"))
    return rows


def cause_lines(causes: Iterable[Cause]) -> list[str]:
    """Two lines for each cause: its share and what was seen, and the remedy."""
    lines = []
    for number, cause in enumerate(causes, 1):
        where = f" Most of it in {', '.join(map(_short, cause.nodes))}." if cause.nodes else ""
        lines += [f"{number}. {percent(cause.share)} {cause.kind}: {cause.sentence}{where}", f"   -> {cause.remedy}"]
    return lines


def summary(why: Why) -> dict[str, Any]:
    """Everything in SI units, ready for JSON; what is not known is ``None``."""
    roofline = why.roofline
    return {
        **{key: getattr(why, key) for key in ("name", "backend", "version", "precision", "threads", "batch")},
        "seconds": roofline.seconds,
        "seconds_profiled": roofline.profiled,
        "seconds_in_no_node": roofline.outside,
        "passes": roofline.passes,
        "source": roofline.source,
        "notes": [*roofline.roofs.notes, *roofline.notes],
        "flops": roofline.flops,
        "bytes": roofline.bytes,
        "of_peak": roofline.of_peak,
        "of_bandwidth": roofline.of_bandwidth,
        "device": roofline.roofs.device,
        "unit": roofline.roofs.unit,
        "roofs": dict(roofs(roofline)),
        "causes": why.causes,
        "nodes": roofline.nodes,
    }


def _cells(nodes: Sequence[NodeRoof], roofline: Roofline) -> tuple[str, ...]:
    """Time, share of the pass, operations, share of the peak and of the bandwidth, bytes."""
    seconds = _seconds(nodes)
    flops = [node.flops for node in nodes if node.flops]
    sizes = [node.bytes for node in nodes if node.bytes is not None]
    return (
        show(seconds, "s"),
        percent(seconds / roofline.whole),
        show(sum(flops), "FLOP/s")[:-2] if flops else "-",
        _percent(_mean([node for node in nodes if node.flops], lambda node: node.of_peak, seconds)),
        _percent(_mean([node for node in nodes if node.bytes], lambda node: node.of_bandwidth, seconds)),
        show(sum(sizes), "B") if sizes else "-",
    )


def _mean(nodes: Sequence[NodeRoof], share: Callable[[NodeRoof], float | None], seconds: float) -> float | None:
    """The time at the roof over ``seconds``; ``None`` where a share is not known."""
    pairs = [(share(node), node.seconds) for node in nodes]
    if not pairs or any(part is None for part, _ in pairs):
        return None
    return sum((part or 0.0) * took for part, took in pairs) / max(seconds, 1e-12)


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _kind(node: NodeRoof) -> str:
    return f"{node.kind} {node.dtype}".strip()


def _seconds(nodes: Iterable[NodeRoof]) -> float:
    return sum(node.seconds for node in nodes)


def _short(name: str, limit: int = 31) -> str:
    """A name without its middle, where it is long: what tells names apart is at their ends."""
    half = (limit - 3) // 2
    return name if len(name) <= limit else f"{name[:half]}...{name[-half:]}"
