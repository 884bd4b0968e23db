"""Which nodes cannot be quantised: found by measuring, in any graph, by halving.

Quantise everything and see how far the results move. If too far, quantise only the first half, then only the second;
a half that moves them too far is halved again, until single nodes are left. These stay in float. It is group testing:
a handful of bad nodes among n costs about that many times log2(n) trials.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

#: How often the share of a group is halved before giving up.
ROUNDS = 5
#: With more than this share of the nodes in float, what is left is hardly worth lowering.
MOST_KEPT = 0.25


@dataclass(frozen=True)
class Found:
    """Nodes to keep in float, the distance of everything quantised, that of the choice, and trials made."""

    kept: frozenset[str]
    everything: float
    chosen: float
    trials: int


class _Measured:
    """A distance that remembers: groups come up again when the tolerance falls."""

    def __init__(self, distance: Callable[[frozenset[str]], float]) -> None:
        self._distance, self.known = distance, dict[frozenset[str], float]()

    def __call__(self, nodes: Collection[str]) -> float:
        key = frozenset(nodes)
        if key not in self.known:
            self.known[key] = self._distance(key) if key else 0.0
        return self.known[key]


def keep_in_float(
    nodes: Sequence[str],
    distance: Callable[[frozenset[str]], float],
    limit: float,
    also: Callable[[frozenset[str]], frozenset[str]] = lambda kept: kept,
) -> Found:
    """The nodes that must stay in float so that ``distance`` of the rest, quantised, is at most ``limit``.

    Args:
        nodes: names in topological order, all of which could be quantised.
        distance: how far results move when exactly these nodes are quantised; 0 is not at all.
        limit: largest distance accepted; one group may take half of it at first, then less.
        also: from nodes that are kept, those that are then not worth quantising either (and the same ones).

    Returns:
        The choice with the smallest distance; ``chosen`` is above ``limit`` where nothing was good enough that keeps
        at most `MOST_KEPT` of the nodes. Where every node does a little harm, keeping them all would be no answer.
    """
    measured = _Measured(distance)
    everything = measured(nodes)
    best: tuple[float, frozenset[str]] = (everything, frozenset())
    tolerance = limit / 2
    for turn in range(ROUNDS):
        room = len(nodes) if turn == 0 else int(MOST_KEPT * len(nodes))
        harmful = _harmful(nodes, measured, tolerance, room) if everything > limit else []
        if len(harmful) > room:
            break
        kept = also(frozenset(harmful))
        chosen = measured([n for n in nodes if n not in kept])
        if turn == 0 or chosen < best[0]:
            best = (chosen, kept)
        if chosen <= limit:
            break
        tolerance /= 2
    return Found(best[1], everything, best[0], len(measured.known))


def _harmful(group: Sequence[str], measured: _Measured, tolerance: float, room: int) -> list[str]:
    """Single nodes over ``tolerance``; no further look is taken once there are more than ``room``."""
    if measured(group) <= tolerance:
        return []
    if len(group) == 1:
        return list(group)
    middle = len(group) // 2
    found = _harmful(group[:middle], measured, tolerance, room)
    if len(found) > room:
        return found
    return found + _harmful(group[middle:], measured, tolerance, room - len(found))


def between_weights(
    consumers: Mapping[str, Collection[str]], weighted: Collection[str], candidates: Collection[str]
) -> frozenset[str]:
    """The candidates that lie on a path, through candidates, from one weighted node to another (or are weighted).

    A node without weights outside such a path gains nothing from int8: it would only be converted to and fro.
    """
    producers: dict[str, set[str]] = {}
    for name, users in consumers.items():
        for user in users:
            producers.setdefault(user, set()).add(name)
    inside = set(candidates)
    roots = inside & set(weighted)
    return frozenset((_reach(roots, consumers, inside) & _reach(roots, producers, inside)) | roots)


def _reach(roots: Collection[str], edges: Mapping[str, Collection[str]], inside: Collection[str]) -> set[str]:
    seen: set[str] = set()
    stack = list(roots)
    while stack:
        for other in edges.get(stack.pop(), ()):
            if other in inside and other not in seen:
                seen.add(other)
                stack.append(other)
    return seen
