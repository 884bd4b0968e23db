"""Joins what nodes cost with what they took, and says of each which roof bounds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.cost.operators import FACTORS
from edgedeploy.roofline.roofs import Roofs
from edgedeploy.runtime import NodeTime, Profile

#: What bounds a node. ``slow``: neither roof is near; ``dispatch``: too small for its own start to be paid.
Bound = Literal["compute", "memory", "slow", "reformatting", "conversion", "dispatch", "unknown"]

#: Below this, in seconds, starting a node costs about as much as what it does.
TINY = 20e-6
#: A node that reaches less than this share of the nearer roof is bounded by neither.
NEAR = 0.2
#: Kinds that a runtime inserts for another layout of tensors; of `_PERMUTES`, those that stand for no stored node.
REFORMATS = frozenset(
    {"ReorderInput", "ReorderOutput", "Reorder", "Copy", "MemcpyFromHost", "MemcpyToHost", "Reformat"}
)
_PERMUTES = frozenset({"Transpose", "Permute", "_to_dim_order_copy", "permute_copy"})
#: Kinds that change the type of tensors.
CONVERTS = frozenset(
    {"Cast", "Convert", "ConvertLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize"}
)
_PREFIXES = ("QLinear", "Nhwc", "Fused", "DynamicQuantize")
_MULTIPLIES = (
    "conv",
    "gemm",
    "matmul",
    "fully connected",
    "lstm",
    "gru",
    "rnn",
    "deconvolution",
    "attention",
    "linear",
)


@dataclass(frozen=True)
class NodeRoof:
    """One node that ran, with its costs where the stored nodes behind it are known.

    Args:
        name: as the runtime calls it.
        kind: its operator.
        unit: what ran it.
        dtype: what it computed in; empty where nobody tells.
        seconds: its own time in a pass.
        bound: what bounds it.
        stored: the nodes of the stored graph that it stands for.
        flops: operations; ``None`` where they are not known.
        bytes: moved; ``None`` where that is not known.
        of_peak: share of the dense peak that it attains; ``None`` where either is not known.
        of_bandwidth: share of the bandwidth; above 1 where the bytes came out of a cache.
        channels: input and output channels, of a node with weights.
    """

    name: str
    kind: str
    unit: str
    dtype: str
    seconds: float
    bound: Bound
    stored: tuple[str, ...] = ()
    flops: int | None = None
    bytes: int | None = None
    of_peak: float | None = None
    of_bandwidth: float | None = None
    channels: tuple[int, ...] = ()

    @property
    def attained(self) -> float | None:
        """Operations per second."""
        return None if self.flops is None or self.seconds <= 0 else self.flops / self.seconds

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution, a matrix product or made of them."""
        return self.kind.rpartition(":")[2].lower().removeprefix("qlinear").startswith(_MULTIPLIES)


@dataclass(frozen=True)
class Roofline:
    """A pass, explained.

    Args:
        nodes: in the order in which they ran.
        seconds: median of a pass without the profiler.
        profiled: median of a pass with it.
        outside: seconds of a pass in no node, without what the profiler adds.
        roofs: what shares of peaks are of.
        cost: of the stored graph; ``None`` where it cannot be counted.
        passes: that were profiled.
        source: whose profiler.
        notes: what could not be known, in sentences.
    """

    nodes: tuple[NodeRoof, ...]
    seconds: float
    profiled: float
    outside: float
    roofs: Roofs
    cost: GraphCost | None
    passes: int
    source: str
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = field(default=(), repr=False)

    @property
    def inside(self) -> float:
        """Seconds in nodes."""
        return sum(node.seconds for node in self.nodes)

    @property
    def whole(self) -> float:
        """Seconds that shares are of: nodes, and what is outside of them.

        Medians of nodes: where a node now and then waits for a processor, a whole pass takes longer than this.
        """
        return max(self.inside + self.outside, 1e-12)

    @property
    def flops(self) -> int | None:
        """Operations of a pass."""
        return None if self.cost is None else self.cost.flops

    @property
    def bytes(self) -> int | None:
        """Bytes that the nodes that ran move; ``None`` where no node says so."""
        known = [node.bytes for node in self.nodes if node.bytes is not None]
        return sum(known) if known else None

    @property
    def of_peak(self) -> float | None:
        """Share of the pass that its arithmetic would take at the dense peaks, each node's in its own precision."""
        return self._share([(self.roofs.seconds(n.flops, n.dtype), n.flops) for n in self.nodes if n.flops])

    @property
    def of_bandwidth(self) -> float | None:
        """Share of the pass that its bytes would take at the bandwidth."""
        return self._share([(self.roofs.moving(n.bytes), n.bytes) for n in self.nodes if n.bytes])

    def _share(self, times: Sequence[tuple[float | None, int]]) -> float | None:
        """Seconds over the pass; ``None`` where those of more than a hundredth of the work are not known."""
        unknown = sum(work for time, work in times if time is None)
        if not times or unknown > 0.01 * sum(work for _, work in times):
            return None
        return sum(time for time, _ in times if time is not None) / self.whole


def join(cost: GraphCost | None, profile: Profile, roofs: Roofs, seconds: float, notes: Iterable[str] = ()) -> Roofline:
    """Every node of ``profile`` with its costs.

    Args:
        cost: of the stored graph, where it can be counted.
        profile: what nodes took.
        roofs: of the unit that ran them.
        seconds: median of a pass without the profiler.
        notes: sentences to keep.
    """
    owned, unmatched = _owners(cost, profile.nodes) if cost is not None else ({}, ())
    nodes = []
    for i, time in enumerate(profile.nodes):
        names = owned.get(i, ())
        nodes.append(_node(time, cost.fused(names) if cost is not None and names else None, names, roofs))
    slower = max(0.0, profile.seconds - seconds)  # the profiler writes its record between nodes
    outside = max(0.0, profile.outside - slower)
    said = tuple(notes)
    if cost is not None and cost.not_counted:
        said = (*said, f"The operations of {', '.join(cost.not_counted)} are not known and count as none.")
    return Roofline(
        tuple(nodes), seconds, profile.seconds, outside, roofs, cost, profile.passes, profile.source, said, unmatched
    )


def _node(time: NodeTime, cost: NodeCost | None, stored: tuple[str, ...], roofs: Roofs) -> NodeRoof:
    dtype = time.dtype if time.dtype in roofs.peaks or cost is None else cost.dtype
    flops = cost.flops if cost is not None else 0 if _moves(time, cost) else None
    size = time.bytes if time.bytes is not None else cost.bytes if cost is not None else None
    computing = None if flops is None else roofs.seconds(flops, dtype)
    moving = None if size is None else roofs.moving(size)
    took = max(time.seconds, 1e-9)
    return NodeRoof(
        name=time.name,
        kind=time.kind,
        unit=time.unit,
        dtype=dtype,
        seconds=time.seconds,
        bound=_bound(time, cost, computing, moving),
        stored=stored,
        flops=flops,
        bytes=size,
        of_peak=computing / took if computing else None,
        of_bandwidth=moving / took if moving else None,
        channels=_channels(cost),
    )


def _bound(time: NodeTime, cost: NodeCost | None, computing: float | None, moving: float | None) -> Bound:
    if time.kind in REFORMATS or (time.kind in _PERMUTES and not time.covers):
        return "reformatting"
    if _converts(time, cost):
        return "conversion"
    known = [seconds for seconds in (computing, moving) if seconds is not None]
    if time.seconds < TINY and max(known, default=0.0) < time.seconds / 2:
        return "dispatch"
    if computing is None or moving is None:
        return "unknown"
    if max(computing, moving) < NEAR * time.seconds:
        return "slow"
    return "compute" if computing >= moving else "memory"


def _moves(time: NodeTime, cost: NodeCost | None) -> bool:
    """Whether it certainly computes nothing, though no stored node is known for it."""
    return time.kind in REFORMATS or _converts(time, cost) or (time.kind in _PERMUTES and not time.covers)


def _converts(time: NodeTime, cost: NodeCost | None) -> bool:
    return time.kind in CONVERTS or (cost is not None and not time.kind.startswith("Conv") and cost.kind in CONVERTS)


def _channels(cost: NodeCost | None) -> tuple[int, ...]:
    """Output channels of a convolution, or the last axis of a product."""
    if cost is None or cost.kind.rpartition(":")[2] not in FACTORS or len(cost.shape) < 2:
        return ()
    return (cost.shape[1] if "Conv" in cost.kind else cost.shape[-1],)


# --- which stored nodes a node stands for --------------------------------------------------------------------------


def _owners(cost: GraphCost, times: Sequence[NodeTime]) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    """Stored nodes by the place of the node that ran for them, and those for which none is known.

    Names tell of most. A stored node that no name tells of was fused: into the node that runs for all of its readers,
    where that does more than any stored node behind it (a QuickGelu for Sigmoid and Mul); else into the one before it
    (a Relu into its Conv).
    """
    by_output = {output: node.name for node in cost.nodes for output, _ in node.outputs}
    names = {node.name for node in cost.nodes}
    owner: dict[str, int] = {}
    for i, time in enumerate(times):
        for covered in time.covers:
            name = covered if covered in names else by_output.get(covered)
            if name is not None:
                owner.setdefault(name, i)
    readers, makers = _edges(cost)
    kinds = {node.name: node.kind.rpartition(":")[2] for node in cost.nodes}
    changed = bool(owner)
    while changed:
        changed = False
        for node in reversed(cost.nodes):
            if node.name not in owner:
                found = _fused_into(node.name, owner, readers, makers, kinds, times)
                if found is not None:
                    owner[node.name], changed = found, True
    groups: dict[int, list[str]] = {}
    for node in cost.nodes:
        if node.name in owner:
            groups.setdefault(owner[node.name], []).append(node.name)
    lost = tuple(node.name for node in cost.nodes if node.name not in owner and node.bytes)
    return {i: tuple(group) for i, group in groups.items()}, lost


def _edges(cost: GraphCost) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Nodes that read from each node, and nodes that each node reads from."""
    by_output = {output: node.name for node in cost.nodes for output, _ in node.outputs}
    readers: dict[str, list[str]] = {}
    makers: dict[str, list[str]] = {}
    for node in cost.nodes:
        for tensor, _ in node.inputs:
            if tensor in by_output:
                readers.setdefault(by_output[tensor], []).append(node.name)
                makers.setdefault(node.name, []).append(by_output[tensor])
    return readers, makers


def _fused_into(
    name: str,
    owner: Mapping[str, int],
    readers: Mapping[str, Sequence[str]],
    makers: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    times: Sequence[NodeTime],
) -> int | None:
    after = {owner[reader] for reader in readers.get(name, ()) if reader in owner}
    if len(after) == 1 and all(reader in owner for reader in readers.get(name, ())):
        place = next(iter(after))
        behind = {kinds[stored] for stored, i in owner.items() if i == place}
        if _plain(times[place].kind) not in behind:
            return place
    before = [owner[maker] for maker in makers.get(name, ()) if maker in owner]
    if before:
        return before[0]
    return next(iter(after)) if len(after) == 1 else None


def _plain(kind: str) -> str:
    for prefix in _PREFIXES:
        kind = kind.removeprefix(prefix)
    return kind
