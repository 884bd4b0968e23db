"""Detections drawn on images, side by side, because a table does not show what went wrong."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tasks.detect import VISIBLE, Detections
from edgedeploy.tasks.image import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

#: Height of one panel, of its caption and of the gap between panels, in pixels.
PANEL, CAPTION, GAP = 420, 22, 6


def side_by_side(
    path: Path,
    image: Path,
    panels: Sequence[tuple[str, Detections]],
    labels: Sequence[str],
    confidence: float = VISIBLE,
) -> Path:
    """Write a PNG with the image once per panel, its detections of at least ``confidence`` drawn in; return ``path``.

    Args:
        path: the PNG.
        image: the image file.
        panels: caption and detections (in pixels of the image) from left to right.
        labels: class names.
        confidence: lower scores are not drawn.

    Raises:
        UsageError: the image cannot be read, or the picture not written.
        Unavailable: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise Unavailable.extra("Pillow, which draws pictures,", "images") from error
    photo = Image.fromarray(read_image(image))
    scale = PANEL / photo.height
    small = photo.resize((max(1, round(photo.width * scale)), PANEL))
    width = len(panels) * small.width + (len(panels) - 1) * GAP
    sheet = Image.new("RGB", (width, PANEL + CAPTION), "white")
    for i, (caption, found) in enumerate(panels):
        left = i * (small.width + GAP)
        sheet.paste(_drawn(small, found, labels, scale, confidence), (left, CAPTION))
        _write(sheet, (left + 4, 3), f"{caption}: {int((found.scores >= confidence).sum())} objects")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def _drawn(photo: Image, found: Detections, labels: Sequence[str], scale: float, confidence: float) -> Image:
    from PIL import ImageDraw

    panel = photo.copy()
    draw = ImageDraw.Draw(panel)
    for box, score, kind in reversed(list(zip(found.boxes, found.scores, found.classes, strict=True))):
        if score < confidence:
            continue
        color = _color(int(kind), len(labels))
        corners = [float(v) * scale for v in box]
        draw.rectangle(corners, outline=color, width=2)
        text = f"{labels[int(kind)]} {score:.2f}"
        where = (corners[0] + 2, max(0.0, corners[1] - 12))
        draw.rectangle(draw.textbbox(where, text), fill=color)
        draw.text(where, text, fill="black")
    return panel


def _write(sheet: Image, where: tuple[int, int], text: str) -> None:
    from PIL import ImageDraw

    ImageDraw.Draw(sheet).text(where, text, fill="black")


def _color(kind: int, kinds: int) -> Any:
    """Bright colours around the wheel; neighbouring classes are far apart."""
    hue = (kind * 0.618034) % 1.0 if kinds > 1 else 0.12
    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 1.0))
