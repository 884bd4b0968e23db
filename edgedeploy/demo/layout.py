"""What stands where in a synthetic aerial scene: pure geometry, drawn by `edgedeploy.demo.paint`.

Image coordinates are pixels with x to the right and y down, and the pixel in row r and column c covers
[c, c + 1) x [r, r + 1). Lengths of things on the ground are metres, and `scale` is pixels per metre.
A heading is in radians: 0 drives towards +x, pi/2 towards +y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

LABELS = ("car", "van", "truck", "bus")
"""Class names; a class number is an index into this tuple."""

SCALES = (4.5, 9.5)
"""The range of pixels per metre: a 4.5 m car is 20 to 43 pixels long."""

CROWD = 60
"""The most vehicles in one scene."""

_LENGTHS = ((3.9, 4.9), (5.2, 6.4), (7.5, 11.5), (10.5, 13.5))
_WIDTHS = ((1.72, 1.95), (1.98, 2.15), (2.40, 2.55), (2.50, 2.60))
_HEIGHTS = (1.5, 2.4, 3.4, 3.2)
_ROAD_MIX = (0.58, 0.18, 0.14, 0.10)
_LOT_MIX = (0.78, 0.22, 0.0, 0.0)
_PAINTS: tuple[Colour, ...] = (
    (236, 236, 238), (205, 208, 212), (150, 154, 160), (92, 96, 104), (38, 40, 46), (170, 38, 36),
    (34, 62, 128), (70, 112, 168), (120, 30, 44), (196, 176, 140), (58, 92, 70), (222, 172, 44),
)  # fmt: skip
_PALE: tuple[Colour, ...] = ((240, 240, 242), (226, 226, 228), (198, 202, 206), (60, 84, 140), (214, 180, 60))
_BUSES: tuple[Colour, ...] = ((214, 60, 44), (238, 190, 50), (70, 130, 190), (236, 238, 240), (70, 150, 96))


def _turn(points: Points, angle: float) -> Points:
    """`points` (n, 2) turned about the origin by `angle`."""
    c, s = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[c, s], [-s, c]])
    return turned


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle seen from straight above; `x`, `y` is the middle of its outline in pixels."""

    kind: int
    x: float
    y: float
    heading: float
    length: float
    width: float
    scale: float
    colour: Colour
    cargo: Colour
    style: float  # 0 to 1: where the cabin sits, what a truck carries

    @property
    def height(self) -> float:
        """Metres above the ground; only the shadow depends on it."""
        return _HEIGHTS[self.kind]

    def place(self, points: Points) -> Points:
        """Points (n, 2) in metres from the middle, x forward, as pixels (n, 2)."""
        placed: Points = _turn(points, self.heading) * self.scale + np.array([self.x, self.y])
        return placed

    def outline(self) -> Points:
        """The outline as pixels (8, 2), a rectangle with its corners cut; everything drawn lies inside."""
        half, side = self.length / 2, self.width / 2
        nose, tail = (0.12, 0.06) if self.kind >= 2 else (0.42, 0.28)
        cut = 0.5 * min(nose, side)
        corners = [(half, side - cut), (half - nose, side), (tail - half, side), (-half, side - tail / 2)]
        corners += [(x, -y) for x, y in reversed(corners)]
        return self.place(np.array(corners))

    def grid(self) -> Points:
        """Points (72, 2) in pixels spread evenly over the body, for asking how much of it is covered."""
        along, across = (np.arange(12) + 0.5) / 12 - 0.5, (np.arange(6) + 0.5) / 6 - 0.5
        local = np.stack(np.meshgrid(along * self.length, across * self.width), axis=-1).reshape(-1, 2)
        return self.place(local)


@dataclass(frozen=True, slots=True)
class Road:
    """A road along `centre` (k, 2) in pixels; `half` is half its width in pixels."""

    centre: Points
    half: float
    lanes: int  # in each direction
    parking: float  # width in pixels of the parking strip on each side, 0 for none


@dataclass(frozen=True, slots=True)
class Slab:
    """A rotated rectangle: a roof, a car park or a crate. `size` is (length, width) in pixels."""

    x: float
    y: float
    angle: float
    size: tuple[float, float]
    height: float  # metres
    colour: Colour

    def corners(self, along: float = 1.0, across: float = 1.0) -> Points:
        """The corners (4, 2) in pixels of the rectangle shrunk by `along` and `across`."""
        a, b = self.size[0] * along / 2, self.size[1] * across / 2
        return self.place(np.array([(a, b), (-a, b), (-a, -b), (a, -b)]))

    def place(self, points: Points) -> Points:
        """Points (n, 2) in pixels from the middle of the slab, turned with it, in the image."""
        placed: Points = _turn(points, self.angle) + np.array([self.x, self.y])
        return placed

    @property
    def reach(self) -> float:
        """Distance in pixels from the middle to a corner."""
        return float(np.hypot(*self.size)) / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything in a scene.

    `trees` is (m, 3): x, y and radius in pixels; `sun` is the shadow's offset (2,) per metre of height.
    """

    seed: int
    height: int
    width: int
    scale: float
    sun: Points
    roads: tuple[Road, ...]
    lots: tuple[Slab, ...]
    roofs: tuple[Slab, ...]
    crates: tuple[Slab, ...]
    trees: Points
    vehicles: tuple[Vehicle, ...]


def draw_layout(seed: int, height: int, width: int) -> Layout:
    """The scene of `seed` on `height` x `width` pixels; the same arguments give the same scene."""
    rng = np.random.default_rng([0xA371A1, seed])
    extent = np.array([width, height], dtype=np.float64)
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    angle = float(rng.uniform(0, 2 * np.pi))
    roads = tuple(_roads(rng, extent, scale, angle))
    lots = tuple(_lots(rng, extent, scale, angle, roads))
    roofs = tuple(_roofs(rng, extent, scale, angle, roads, lots))
    crates = tuple(_crates(rng, extent, scale, roads, (*lots, *roofs)))
    fleet = _Fleet(rng, extent, scale, (*roofs, *crates))
    for lot in lots:
        fleet.park(lot)
    for road in roads:
        fleet.drive(road)
    fleet.stray()
    trees = _trees(rng, extent, scale, roads, lots)
    azimuth = rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(azimuth), np.sin(azimuth)]) * rng.uniform(0.15, 0.9)
    vehicles = tuple(fleet.vehicles[:CROWD])
    return Layout(seed, height, width, scale, sun, roads, lots, roofs, crates, trees, vehicles)


def _roads(rng: np.random.Generator, extent: Points, scale: float, angle: float) -> Iterator[Road]:
    far = float(extent.sum())
    kind = rng.choice(5, p=[0.28, 0.24, 0.28, 0.12, 0.08])  # straight, curve, crossing, both, none

    def straight(direction: float) -> Points:
        middle = extent * rng.uniform(0.25, 0.75, 2)
        step = np.array([np.cos(direction), np.sin(direction)]) * far
        return np.linspace(middle - step, middle + step, 81)

    def curve(direction: float) -> Points:
        middle = extent * rng.uniform(0.3, 0.7, 2)
        arms = [direction, direction + np.pi + rng.uniform(0.4, 1.3) * rng.choice([-1, 1])]
        start, end = (middle + np.array([np.cos(a), np.sin(a)]) * far for a in arms)
        # A quadratic Bezier bends over its whole length; pulling the ends in keeps the bend in the picture.
        t = np.linspace(0, 1, 161)[:, None]
        return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end

    def road(centre: Points) -> Road:
        lanes = int(rng.choice([1, 1, 2]))
        parking = 2.3 * scale if rng.random() < 0.45 else 0.0
        half = float(lanes * rng.uniform(3.0, 3.6) * scale + parking + 0.3 * scale)
        return Road(centre, half, lanes, parking)

    if kind in (1, 3):
        yield road(curve(angle))
    if kind in (0, 2):
        yield road(straight(angle))
    if kind in (2, 3):
        yield road(straight(angle + rng.uniform(1.05, 2.1)))


def _lots(
    rng: np.random.Generator, extent: Points, scale: float, angle: float, roads: tuple[Road, ...]
) -> Iterator[Slab]:
    if not roads or rng.random() < 0.35:
        x, y = extent * rng.uniform(0.15, 0.85, 2)
        size = (float(rng.integers(6, 15)) * 2.6 * scale, 16.6 * scale)
        tone = int(rng.integers(88, 128))
        yield Slab(x, y, angle + rng.choice([0, np.pi / 2]), size, 0.0, (tone, tone, tone + 3))


def _clear(x: float, y: float, reach: float, roads: tuple[Road, ...], slabs: tuple[Slab, ...]) -> bool:
    """Whether a disc of `reach` pixels about x, y touches no road and no slab's disc."""
    point = np.array([x, y])
    if any(np.min(np.hypot(*(r.centre - point).T)) < r.half + reach for r in roads):
        return False
    return all(np.hypot(s.x - x, s.y - y) > s.reach + reach for s in slabs)


def _roofs(
    rng: np.random.Generator, extent: Points, scale: float, angle: float, roads: tuple[Road, ...],
    lots: tuple[Slab, ...],
) -> Iterator[Slab]:  # fmt: skip
    tones = [(142, 84, 66), (120, 72, 60), (96, 98, 104), (164, 160, 152), (188, 186, 182), (110, 104, 92)]
    built: tuple[Slab, ...] = ()
    for _ in range(int(rng.choice([0, 8, 20, 40]))):
        x, y = extent * rng.uniform(-0.05, 1.05, 2)
        size = (rng.uniform(7, 18) * scale, rng.uniform(6, 11) * scale)
        turn = angle + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
        shift = rng.normal(0, 9) + rng.normal(0, 3, 3)
        tone = np.array(tones[rng.integers(len(tones))])
        red, green, blue = (int(v) for v in np.clip(tone + shift, 0, 255))
        roof = Slab(x, y, turn, size, float(rng.uniform(3, 8)), (red, green, blue))
        if _clear(x, y, roof.reach * 0.9, roads, (*lots, *built)):
            built = (*built, roof)
            yield roof


def _crates(
    rng: np.random.Generator, extent: Points, scale: float, roads: tuple[Road, ...], slabs: tuple[Slab, ...]
) -> Iterator[Slab]:
    """Boxes of a vehicle's size that are no vehicles: containers, sheds and skips."""
    for _ in range(int(rng.integers(0, 5))):
        x, y = extent * rng.uniform(0, 1, 2)
        size = (rng.uniform(3, 9) * scale, rng.uniform(1.8, 2.6) * scale)
        crate = Slab(x, y, rng.uniform(0, np.pi), size, 2.4, _PAINTS[rng.integers(len(_PAINTS))])
        if _clear(x, y, crate.reach, roads, slabs):
            yield crate


def _trees(
    rng: np.random.Generator, extent: Points, scale: float, roads: tuple[Road, ...], lots: tuple[Slab, ...]
) -> Points:
    """Groves, single trees, and rows along the roads whose crowns hang over the kerb."""
    found: list[Points] = []
    for _ in range(int(rng.integers(0, 6))):
        middle = extent * rng.uniform(0, 1, 2)
        spots = middle + rng.normal(0, 7 * scale, (int(rng.integers(1, 14)), 2))
        away = [np.hypot(*(road.centre[None] - spots[:, None]).transpose(2, 0, 1)).min(1) for road in roads]
        free = [far > road.half for far, road in zip(away, roads, strict=True)]
        free += [np.hypot(*(spots - (lot.x, lot.y)).T) > lot.reach for lot in lots]
        found.append(spots[np.all(free, axis=0)] if free else spots)
    for road in roads:
        if rng.random() < 0.5:
            picks = np.sort(rng.choice(len(road.centre) - 1, min(40, len(road.centre) - 1), replace=False))
            ahead = road.centre[picks + 1] - road.centre[picks]
            normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.hypot(*ahead.T)[:, None]
            side = rng.choice([-1, 1], (len(picks), 1))
            beyond = rng.uniform(-0.4, 2.5, (len(picks), 1)) * scale
            found.append(road.centre[picks] + normal * side * (road.half + beyond))
    for lot in lots:
        if rng.random() < 0.4:
            found.append(lot.place(rng.uniform(-0.5, 0.5, (int(rng.integers(1, 5)), 2)) * lot.size))
    spots = np.concatenate(found) if found else np.empty((0, 2))
    spots = spots[np.all((spots > -30) & (spots < extent + 30), axis=1)]
    return np.column_stack([spots, rng.uniform(0.9, 3.0, len(spots)) * scale])


class _Fleet:
    """The vehicles placed so far; a new one is added only where it touches none of them."""

    def __init__(
        self, rng: np.random.Generator, extent: Points, scale: float, built: tuple[Slab, ...]
    ) -> None:  # fmt: skip
        self.rng, self.extent, self.scale = rng, extent, scale
        self.taken = [(np.array([slab.x, slab.y]), slab.corners()) for slab in built]
        self.vehicles: list[Vehicle] = []

    def add(self, spot: Points, heading: float, mix: tuple[float, ...]) -> float:
        """Try one vehicle of a kind drawn from `mix` at `spot`; returns its length in pixels."""
        rng = self.rng
        kind = int(rng.choice(len(LABELS), p=mix))
        length, width = rng.uniform(*_LENGTHS[kind]), rng.uniform(*_WIDTHS[kind])
        palette = (_PAINTS, _PALE, _PAINTS, _BUSES)[kind]
        base, cargo = palette[rng.integers(len(palette))], _PALE[rng.integers(len(_PALE))]
        red, green, blue = (int(np.clip(v + rng.normal(0, 9), 0, 255)) for v in base)
        heading = float(heading + rng.normal(0, 0.035))
        vehicle = Vehicle(
            kind, float(spot[0]), float(spot[1]), heading, float(length), float(width), self.scale,
            (red, green, blue), cargo, float(rng.random()),
        )  # fmt: skip
        reach = length * self.scale
        outline = vehicle.outline()
        inside = bool(np.all(spot > -reach / 2) and np.all(spot < self.extent + reach / 2))
        near = (other for at, other in self.taken if np.hypot(*(at - spot)) < reach * 3)
        if inside and not any(touch(outline, other) for other in near):
            self.taken.append((spot, outline))
            self.vehicles.append(vehicle)
        return float(reach)

    def drive(self, road: Road) -> None:
        """Traffic in each lane, at a density of its own, and cars in the parking strips."""
        rng, scale = self.rng, self.scale
        steps = np.hypot(*np.diff(road.centre, axis=0).T)
        walked = np.concatenate([[0.0], np.cumsum(steps)])
        lane = (road.half - road.parking) / road.lanes
        offsets = [(lane * (i + 0.5), 0.0) for i in range(road.lanes)]
        if road.parking:
            offsets.append((road.half - road.parking / 2, 1.0))
        for offset, parked in offsets:
            for side in (1, -1):
                gap = rng.uniform(1.0, 5.0) if parked else rng.uniform(4.0, 22.0)
                at = float(rng.exponential(gap * scale))
                while at < walked[-1]:
                    i = min(int(np.searchsorted(walked, at, side="right")) - 1, len(steps) - 1)
                    ahead = (road.centre[i + 1] - road.centre[i]) / steps[i]
                    normal = np.array([-ahead[1], ahead[0]]) * side
                    spot = road.centre[i] + ahead * (at - walked[i]) + normal * offset
                    if np.any(spot < -15 * scale) or np.any(spot > self.extent + 15 * scale):
                        at += 4 * scale
                        continue
                    back = side < 0 if not parked else rng.random() < 0.5
                    heading = float(np.arctan2(ahead[1], ahead[0]) + np.pi * back)
                    length = self.add(spot, heading, _LOT_MIX if parked else _ROAD_MIX)
                    at += length + float(rng.exponential(gap * scale)) + 0.8 * scale

    def park(self, lot: Slab) -> None:
        """Cars and vans in the two rows of a car park."""
        filled = self.rng.uniform(0.25, 0.9)
        for x, y in slots(lot, self.scale):
            if self.rng.random() < filled:
                heading = lot.angle + np.pi / 2 + np.pi * self.rng.integers(2)
                self.add(lot.place(np.array([[x, y]]))[0], float(heading), _LOT_MIX)

    def stray(self) -> None:
        """A few vehicles anywhere, at any heading: on a field track, in a yard."""
        for _ in range(int(self.rng.integers(1, 5))):
            spot = self.extent * self.rng.uniform(0, 1, 2)
            self.add(spot, float(self.rng.uniform(0, 2 * np.pi)), (0.4, 0.2, 0.25, 0.15))


def slots(lot: Slab, scale: float) -> Points:
    """Middles (n, 2) of a car park's slots, in pixels from the lot's middle along its axes."""
    pitch = 2.6 * scale
    count = round(lot.size[0] / pitch)
    along = (np.arange(count) - (count - 1) / 2) * pitch
    return np.array([(x, side * 5.6 * scale) for side in (-1, 1) for x in along])


def touch(a: Points, b: Points) -> bool:
    """Whether the convex polygons `a` (n, 2) and `b` (m, 2) overlap (separating axis theorem)."""
    for polygon in (a, b):
        edges = np.roll(polygon, -1, axis=0) - polygon
        normals = np.stack([-edges[:, 1], edges[:, 0]])
        pa, pb = a @ normals, b @ normals
        if np.any((pa.max(0) < pb.min(0)) | (pb.max(0) < pa.min(0))):
            return False
    return True
