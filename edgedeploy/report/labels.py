"""Names beside points of a plot, each where it covers neither another name, nor a point, nor the edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points between baselines, width of a character (fonts differ from reader to reader), and half of a marker.
LINE, LETTER, MARKER = 12.5, 5.7, 6.0
#: Distances that a name may have from its point, in points; from the third on a thin line leads to it.
DISTANCES = (9.0, 14.0, 22.0, 32.0, 44.0, 58.0)
#: Points between the places of a search all over the axes.
STEP = 16.0
_LED = DISTANCES[2]
#: Directions, the better ones first: right, left, above, below, and between.
_ANGLES = (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240)

#: Left, bottom, right, top in points.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Named:
    """A name, and its point in data coordinates."""

    text: str
    x: float
    y: float


def write(axes: Axes, named: Sequence[Named], ink: str, muted: str, taken: Sequence[Box] = ()) -> list[Box]:
    """Write every name and return where each is, in points of the figure; call it when the axes will not change.

    Args:
        axes: with its limits set, and laid out.
        named: what to write; of two that compete for a place, the first one gets it.
        ink: colour of the text.
        muted: colour of the lines that lead to those that are far from their point.
        taken: what they must not cover besides each other and their points, such as bars.
    """
    zoom = 72 / axes.figure.dpi
    frame = axes.get_window_extent()
    edges = (frame.x0 * zoom, frame.y0 * zoom, frame.x1 * zoom, frame.y1 * zoom)
    places = [tuple(axes.transData.transform((one.x, one.y)) * zoom) for one in named]
    dots = [(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in places]
    found: list[Box] = []
    for one, (x, y) in zip(named, places, strict=True):
        box = _best(one.text, (x, y), edges, [*found, *dots], taken)
        found.append(box)
        left, bottom = box[0] - x, box[1] - y
        far = min(math.hypot(max(box[0] - x, x - box[2], 0), max(box[1] - y, y - box[3], 0)), 999) >= _LED - LINE / 2
        line = {"arrowstyle": "-", "color": muted, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4} if far else None
        axes.annotate(
            one.text, (one.x, one.y), xytext=(left, bottom + LINE / 4), textcoords="offset points", fontsize=9.5,
            color=ink, annotation_clip=False, arrowprops=line,
        )  # fmt: skip
    return found


def overlap(one: Box, other: Box) -> float:
    """Square points that two boxes have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _best(text: str, point: tuple[float, float], edges: Box, hard: Sequence[Box], soft: Sequence[Box]) -> Box:
    """The nearest place that covers nothing; where there is none, that which covers least."""
    wide, (x, y) = LETTER * len(text), point
    best, least = (x, y, x + wide, y + LINE), math.inf
    for across, up in itertools.chain(_around(wide), _anywhere(wide, point, edges)):
        far = math.hypot(max(abs(across) - wide / 2, 0), up)
        if 0.2 * far >= least:
            continue
        box = (x + across - wide / 2, y + up - LINE / 2, x + across + wide / 2, y + up + LINE / 2)
        outside = wide * LINE - overlap(box, edges)
        covered = sum(overlap(box, other) for other in hard) + outside
        cost = 100 * covered + 3 * sum(overlap(box, other) for other in soft) + 0.2 * far
        if cost < least:
            best, least = box, cost
    return best


def _around(wide: float) -> Iterator[tuple[float, float]]:
    """Middles of places beside a point, from it."""
    for distance, angle in itertools.product(DISTANCES, _ANGLES):
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield across * (distance + wide / 2 * abs(across)), up * (distance + LINE / 2)


def _anywhere(wide: float, point: tuple[float, float], edges: Box) -> Iterator[tuple[float, float]]:
    """Middles of places all over the axes, for a crowd that has no room beside its points."""
    for column in range(int(max(edges[2] - edges[0] - wide, 0) // STEP) + 1):
        for row in range(int(max(edges[3] - edges[1] - LINE, 0) // LINE) + 1):
            yield edges[0] + wide / 2 + column * STEP - point[0], edges[1] + (row + 0.5) * LINE - point[1]
