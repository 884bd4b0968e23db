"""Drawing a `Layout` as a photograph: ground, shadows, vehicles, crowns, and the faults of a camera."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedeploy.demo.layout import Colour, Layout, Points, Road, Slab, Vehicle, slots

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

FINE = 2
"""Shapes are drawn this many times finer than the image and then averaged, which smooths their edges."""

_GLASS: Colour = (30, 38, 48)
_GRASS: tuple[Colour, ...] = ((92, 112, 66), (112, 122, 74), (78, 98, 60))
_SOIL: tuple[Colour, ...] = ((142, 124, 94), (166, 148, 106), (128, 108, 84))
_PAVED: tuple[Colour, ...] = ((150, 148, 142), (132, 130, 126), (164, 158, 148))


def paint(layout: Layout) -> NDArray[np.uint8]:
    """The scene as RGB uint8 (height, width, 3). The same layout gives the same bytes.

    Raises:
        Unavailable: Pillow is not installed.
    """
    from edgedeploy.errors import Unavailable

    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise Unavailable.extra("Pillow, which draws the scenes,", "images") from error

    rng = np.random.default_rng([0xB0057, layout.seed])
    fine = (layout.width * FINE, layout.height * FINE)
    canvas = Image.fromarray(_ground(layout, rng)).resize(fine, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    _pave(draw, layout, rng)
    low = [(v.outline(), v.height * layout.scale) for v in layout.vehicles]
    low += [(s.corners(), s.height * layout.scale) for s in (*layout.crates, *layout.roofs)]
    canvas = _shade(canvas, low, layout.sun, 0.5)
    draw = ImageDraw.Draw(canvas)
    for crate in layout.crates:
        _crate(draw, crate)
    for vehicle in layout.vehicles:
        _vehicle(draw, vehicle)
    canvas = _shade(canvas, [(_disc(*t), t[2] * 1.2) for t in layout.trees.tolist()], layout.sun, 0.6)
    draw = ImageDraw.Draw(canvas)
    for roof in layout.roofs:
        _roof(draw, roof, layout, rng)
    for tree in layout.trees.tolist():
        _crown(draw, tree, layout.sun, rng)
    return _camera(canvas.reduce(FINE), rng)


def _disc(x: float, y: float, radius: float) -> Points:
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


def _fill(draw: ImageDraw.ImageDraw, polygon: Points, colour: Colour | int) -> None:
    # A pixel's index names its middle for Pillow, and its corner for a Layout: hence the half.
    draw.polygon((polygon * FINE - 0.5).ravel().tolist(), fill=colour)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    box = [(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE]
    draw.ellipse([v - 0.5 for v in box], fill=colour)


def _line(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, width: float) -> None:
    path, thick = (points * FINE - 0.5).ravel().tolist(), max(1, round(width * FINE))
    draw.line(path, fill=colour, width=thick, joint="curve")


def _lit(colour: Colour, gain: float) -> Colour:
    red, green, blue = (max(0, min(255, round(v * gain))) for v in colour)
    return (red, green, blue)


def _cloud(rng: np.random.Generator, height: int, width: int, cell: int) -> NDArray[np.float32]:
    """Smooth noise (height, width) of unit variance at the nodes, which are `cell` pixels apart."""
    from PIL import Image

    nodes = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(nodes).resize((width, height), Image.Resampling.BICUBIC))


def _ground(layout: Layout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Patches of grass, soil, crops and paving around random sites, uint8 (height, width, 3)."""
    height, width = layout.height, layout.width
    wobble = _cloud(rng, height, width, 40) * 5
    rows = np.arange(height, dtype=np.float32)[:, None] + wobble
    columns = np.arange(width, dtype=np.float32) + wobble
    town = rng.random() < 0.5
    palettes = (_GRASS, _PAVED, _PAVED, _SOIL) if town else (_GRASS, _GRASS, _SOIL, _SOIL)
    sites = rng.uniform(-0.1, 1.1, (int(rng.integers(2, 7)), 2)) * (width, height)
    nearest = np.argmin([(columns - x) ** 2 + (rows - y) ** 2 for x, y in sites.tolist()], axis=0)
    base = np.empty((height, width, 3), np.float32)
    for site in range(len(sites)):
        palette = palettes[rng.integers(len(palettes))]
        patch = np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 10) + rng.normal(0, 3, 3)
        mine = nearest == site
        base[mine] = patch
        if palette is not _PAVED and rng.random() < 0.5:
            angle, pitch = float(rng.uniform(0, math.pi)), 2 * math.pi / float(rng.uniform(4, 12))
            along = columns[mine] * math.cos(angle) + rows[mine] * math.sin(angle)
            base[mine] += (np.sin(along * pitch) * float(rng.uniform(2, 10)))[:, None]
    texture = 5 * _cloud(rng, height, width, 24) + 4 * _cloud(rng, height, width, 6)
    texture = texture + 3 * _cloud(rng, height, width, 2)
    return np.clip(base + texture[..., None], 0, 255).astype(np.uint8)


def _pave(draw: ImageDraw.ImageDraw, layout: Layout, rng: np.random.Generator) -> None:
    """Car parks and roads with their marks; crossing roads share one surface without marks."""
    scale = layout.scale
    for lot in layout.lots:
        _fill(draw, lot.corners(), lot.colour)
        for x, y in slots(lot, scale).tolist():
            for side in (-1.3, 1.3):
                ends = np.array([(x + side * scale, y - 2.5 * scale), (x + side * scale, y + 2.5 * scale)])
                _line(draw, lot.place(ends), (206, 206, 202), 0.12 * scale)
    tone = int(rng.integers(74, 124))
    kerb, asphalt = (tone + 52, tone + 50, tone + 46), (tone, tone, tone + 4)
    for colour, extra in ((kerb, 1.1), (asphalt, 0.0)):
        for road in layout.roads:
            _line(draw, road.centre, colour, 2 * (road.half + extra * scale))
    for road in layout.roads:
        others = [r for r in layout.roads if r is not road]
        _marks(draw, road, others, layout)


def _marks(draw: ImageDraw.ImageDraw, road: Road, others: list[Road], layout: Layout) -> None:
    """Dashed lane lines, a middle line and edge lines, left out where another road crosses."""
    scale = layout.scale
    walked = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(road.centre, axis=0).T))])
    lane = (road.half - road.parking) / road.lanes
    for index in range(-road.lanes, road.lanes + 1):
        edge, middle = abs(index) == road.lanes, index == 0
        dash, gap = (2.0, 0.0) if edge else (2.6, 2.6)
        starts = np.arange(0, walked[-1] - dash * scale, (dash + gap) * scale)
        at = np.stack([starts, starts + dash * scale])
        ends = np.stack([np.interp(at, walked, road.centre[:, i]) for i in (0, 1)], axis=-1)  # (2, n, 2)
        ahead = ends[1] - ends[0]
        normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.hypot(*ahead.T)[:, None]
        ends = ends + normal * index * lane * (0.96 if edge else 1.0)
        shown = np.all((ends > -9) & (ends < np.array([layout.width, layout.height]) + 9), axis=(0, 2))
        for line in ends[:, shown].transpose(1, 0, 2):
            if any(np.min(np.hypot(*(r.centre - line[0]).T)) < r.half + 2 * scale for r in others):
                continue
            _line(draw, line, (214, 188, 96) if middle and road.lanes > 1 else (214, 214, 210), 0.16 * scale)


def _shade(canvas: Image.Image, things: list[tuple[Points, float]], sun: Points, gain: float) -> Image.Image:
    """`canvas` darkened by `gain` where a polygon of a height in pixels throws its shadow."""
    from PIL import Image, ImageDraw, ImageFilter

    mask = Image.new("L", canvas.size, 0)
    draw = ImageDraw.Draw(mask)
    for polygon, height in things:
        for step in np.linspace(0.2, 1, max(2, int(height / 5))).tolist():
            _fill(draw, polygon + sun * height * step, 255)
    dark = canvas.point(lambda value: value * gain)
    return Image.composite(dark, canvas, mask.filter(ImageFilter.BoxBlur(1)))


def _vehicle(draw: ImageDraw.ImageDraw, car: Vehicle) -> None:
    """One vehicle: body, bonnet, glass, lights, and what tells its class from above."""
    half, side = car.length / 2, car.width / 2

    def part(front: float, back: float, front_side: float, back_side: float, colour: Colour) -> None:
        """A trapezoid from x = `front` to `back` in metres, with half widths as shares of the body's."""
        a, b = front_side * side, back_side * side
        _fill(draw, car.place(np.array([(front, a), (back, b), (back, -b), (front, -a)])), colour)

    _fill(draw, car.outline(), _lit(car.colour, 0.86))
    if car.kind == 0:
        nose = half * (0.42 + 0.14 * car.style)
        tail = -half * (0.62 if car.style < 0.5 else 0.84)
        part(half * 0.92, nose, 0.7, 0.82, _lit(car.colour, 1.04))
        part(nose, nose - 0.75, 0.86, 0.74, _GLASS)
        part(nose - 0.4, tail + 0.2, 0.86, 0.86, _GLASS)
        part(nose - 0.7, tail + 0.3, 0.74, 0.72, _lit(car.colour, 1.1))
        part(tail + 0.32, tail - 0.18, 0.7, 0.8, _GLASS)
    elif car.kind == 1:
        nose = half - 0.75
        part(nose, nose - 0.65, 0.9, 0.82, _GLASS)
        part(nose - 0.6, -half + 0.12, 0.84, 0.88, _lit(car.colour, 1.06))
        for rib in np.linspace(-half + 0.8, nose - 1.6, 4).tolist():
            part(rib + 0.06, rib - 0.06, 0.74, 0.74, _lit(car.colour, 0.84))
    elif car.kind == 2:
        cab = half - 2.1
        part(half - 0.15, half - 0.6, 0.86, 0.9, _GLASS)
        part(half - 0.6, cab, 0.88, 0.9, _lit(car.colour, 1.08))
        part(cab, cab - 0.5, 1.0, 1.0, (34, 34, 36))
        load: Colour = car.cargo if car.style < 0.7 else (112, 92, 68)
        part(cab - 0.5, -half + 0.04, 0.98, 0.98, _lit(load, 0.82))
        part(cab - 0.7, -half + 0.25, 0.88, 0.88, load)
        for rib in np.arange(-half + 1.2, cab - 1.2, 1.3).tolist():
            part(rib + 0.06, rib - 0.06, 0.86, 0.86, _lit(load, 0.9))
    else:
        part(half - 0.08, half - 0.5, 0.9, 0.92, _GLASS)
        top = car.colour if car.style < 0.5 else (232, 232, 232)
        part(half - 0.5, -half + 0.2, 0.86, 0.86, _lit(top, 1.05))
        for hatch in (0.45, 0.0, -0.5):
            part(half * hatch + 0.55, half * hatch - 0.55, 0.4, 0.4, (176, 180, 186))
        part(half * -0.72, half * -0.9, 0.6, 0.6, (96, 100, 106))
    glow = np.array([(0.1, 0.14), (-0.1, 0.14), (-0.1, -0.14), (0.1, -0.14)])
    for y in (-0.66, 0.66):
        for x, colour in ((half - 0.12, (250, 246, 220)), (-half + 0.1, (150, 24, 22))):
            _fill(draw, car.place((glow + np.array([x, y])) * (1, side * 0.96)), colour)


def _crate(draw: ImageDraw.ImageDraw, crate: Slab) -> None:
    _fill(draw, crate.corners(), _lit(crate.colour, 0.75))
    _fill(draw, crate.corners(0.94, 0.86), crate.colour)
    for x in np.linspace(-0.42, 0.42, 9).tolist():
        ends = np.array([(x * crate.size[0], side * crate.size[1] * 0.4) for side in (-1, 1)])
        _line(draw, crate.place(ends), _lit(crate.colour, 0.84), 0.4)


def _roof(draw: ImageDraw.ImageDraw, roof: Slab, layout: Layout, rng: np.random.Generator) -> None:
    """A gabled roof with a sunny and a shaded side, or a flat one with boxes on it."""
    a, b = roof.size[0] / 2, roof.size[1] / 2
    if rng.random() < 0.6:
        across = np.array([-np.sin(roof.angle), np.cos(roof.angle)])
        tilt = 0.2 * float(np.sign(across @ layout.sun))
        for side in (-1, 1):
            slope = np.array([(a, 0), (a, side * b), (-a, side * b), (-a, 0)])
            _fill(draw, roof.place(slope), _lit(roof.colour, 1 - tilt * side))
        _line(draw, roof.place(np.array([(a, 0), (-a, 0)])), _lit(roof.colour, 1.3), 0.6)
        return
    _fill(draw, roof.corners(), _lit(roof.colour, 1.2))
    _fill(draw, roof.corners(1 - 3 / a / 2, 1 - 3 / b / 2), roof.colour)
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-0.7, 0.7, 2) * (a, b)
        size = (float(rng.uniform(1, 3)) * layout.scale, float(rng.uniform(0.8, 2)) * layout.scale)
        middle = roof.place(np.array([[x, y]]))[0]
        box = Slab(float(middle[0]), float(middle[1]), roof.angle, size, 1.0, _lit(roof.colour, 1.25))
        _fill(draw, box.corners(), _lit(roof.colour, 0.6))
        _fill(draw, box.corners(0.85, 0.8), box.colour)


def _crown(draw: ImageDraw.ImageDraw, tree: list[float], sun: Points, rng: np.random.Generator) -> None:
    """A tree (x, y, radius) from above: leaf clusters that get lighter towards the sun."""
    x, y, radius = tree
    base: Colour = ((52, 78, 42), (66, 90, 44), (44, 68, 48), (96, 92, 46))[rng.integers(4)]
    _dot(draw, x, y, radius * 0.94, _lit(base, 0.8))
    away = (-sun / np.hypot(*sun)).tolist()
    for depth in (0.9, 1.05, 1.25):
        turns, reach = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.1, 0.5, 6) * radius
        for turn, far in zip(turns.tolist(), reach.tolist(), strict=True):
            lean = radius * (depth - 0.9) * 0.4
            left, top = x + far * math.cos(turn) + lean * away[0], y + far * math.sin(turn) + lean * away[1]
            _dot(draw, left, top, radius * (1.4 - depth), _lit(base, depth))


def _camera(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, uneven light, exposure, tint, haze and sensor noise."""
    from PIL import ImageFilter

    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.1))))
    pixels = np.asarray(image).astype(np.float32) / 255
    height, width = pixels.shape[:2]
    light = 1 + 0.06 * _cloud(rng, height, width, max(height, width) // 2)
    gain = np.exp(rng.normal(-0.05, 0.22)) * np.exp(rng.normal(0, 0.022, 3))
    pixels = pixels ** np.float32(rng.uniform(0.85, 1.2)) * light[..., None] * gain.astype(np.float32)
    haze = np.float32(rng.uniform(0, 0.22) * (rng.random() < 0.5))
    pixels = pixels * (1 - haze) + haze * np.float32(0.78)
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    pixels += grain * np.float32(rng.uniform(0.004, 0.035))
    levels: NDArray[np.uint8] = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    return levels
