"""Images: reading, bilinear resizing, and putting one into a graph's input tensor.

OpenCV is used where it imports. Everything after reading works with numpy alone and gives the same pixels within one
grey level, because a device may have nothing but numpy and a runtime; `engine` says which of the two is in force.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable, UsageError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: File name endings that count as images in a data set's folders.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in the input tensor; sizes are (height, width) and offsets (top, left) in pixels."""

    image: tuple[int, int]
    content: tuple[int, int]
    offset: tuple[int, int]

    def to_image(self, boxes: Floats) -> Floats:
        """Boxes (n, 4) x1, y1, x2, y2 from input pixels to pixels of the original image, clipped to it."""
        vertical, horizontal = self.content[0] / self.image[0], self.content[1] / self.image[1]
        offset = np.array([self.offset[1], self.offset[0]] * 2, np.float32)
        scale = np.array([1 / horizontal, 1 / vertical] * 2, np.float32)
        limit = np.array([self.image[1], self.image[0]] * 2, np.float32)
        original: Floats = np.clip((boxes - offset) * scale, np.float32(0), limit)
        return original


def place(
    image: tuple[int, int],
    size: tuple[int, int],
    resize: Literal["letterbox", "stretch"],
    align: Literal["center", "topleft"],
) -> Geometry:
    """How an image of (height, width) fits an input of ``size``: stretched over it, or scaled evenly and padded."""
    if resize == "stretch":
        return Geometry(image, size, (0, 0))
    scale = min(size[0] / image[0], size[1] / image[1])
    content = (_scaled(image[0], scale, size[0]), _scaled(image[1], scale, size[1]))
    if align == "topleft":
        return Geometry(image, content, (0, 0))
    return Geometry(image, content, ((size[0] - content[0]) // 2, (size[1] - content[1]) // 2))


def _scaled(length: int, scale: float, limit: int) -> int:
    return min(max(round(length * scale), 1), limit)


def fill(
    tensor: Floats, image: Pixels, geometry: Geometry, gain: Sequence[float], bias: Sequence[float], pad: int
) -> None:
    """Write an image into ``tensor`` (3, H, W) as ``pixel * gain[c] + bias[c]``; what it leaves free becomes ``pad``.

    Args:
        tensor: float32, overwritten whole.
        image: uint8 (h, w, 3) in the channel order of the tensor, of any size.
        geometry: where it goes.
        gain: factor per channel.
        bias: summand per channel.
        pad: grey level of the border, before ``gain`` and ``bias``.
    """
    top, left = geometry.offset
    height, width = geometry.content
    planes = _planes(resized(image, geometry.content))
    for channel, plane in enumerate(planes):
        whole = tensor[channel]
        border = np.float32(pad * gain[channel] + bias[channel])
        whole[:top], whole[top + height :] = border, border
        whole[top : top + height, :left], whole[top : top + height, left + width :] = border, border
        # One conversion straight into its place, then arithmetic there: no float image exists in between.
        inner = whole[top : top + height, left : left + width]
        np.copyto(inner, plane)
        inner *= np.float32(gain[channel])
        if bias[channel]:
            inner += np.float32(bias[channel])


def resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The image (h, w, 3) at ``size`` (height, width): bilinear, half-pixel centres, no antialiasing."""
    if image.shape[:2] == size:
        return image
    if (opencv := _opencv()) is not None:
        return cast(Pixels, opencv.resize(image, (size[1], size[0]), interpolation=opencv.INTER_LINEAR))
    return _resized_by_numpy(image, size)


def engine() -> str:
    """What resizes images here, with its version: part of the environment record of a measurement."""
    opencv = _opencv()
    return f"numpy {np.__version__}" if opencv is None else f"opencv {opencv.__version__}"


def read_image(path: Path) -> Pixels:
    """The image in a file as uint8 RGB (height, width, 3), turned as its EXIF orientation says.

    Grey images get three equal channels, transparency is dropped, and of 16-bit samples the high byte is kept.

    Raises:
        UsageError: missing, truncated, or not an image.
        Unavailable: neither OpenCV nor Pillow is here.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if _truncated(data):
        raise UsageError(f"{path} is a truncated image: its end is missing. Copy it again.")
    image = _decoded_by_opencv(data) if _opencv() is not None else _decoded_by_pillow(data)
    if image is None or image.size == 0:
        raise UsageError(f"{path} is not an image that can be read ({len(data)} bytes).")
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` would give them, from the header where Pillow is here.

    Raises:
        UsageError: missing, truncated, or not an image.
        Unavailable: neither OpenCV nor Pillow is here.
    """
    pillow = _pillow()
    if pillow is None:
        height, width = read_image(path).shape[:2]
        return height, width
    try:
        with Path(path).open("rb") as stream:
            image = pillow.open(stream)
            width, height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            truncated = _truncated(_ends(stream))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise UsageError(f"{path} is not an image that can be read.") from error
    if truncated:
        raise UsageError(f"{path} is a truncated image: its end is missing. Copy it again.")
    return (width, height) if orientation in _ROTATED else (height, width)


def _ends(stream: io.BufferedReader, length: int = 1 << 16) -> bytes:
    """The first bytes of a file and its tail: enough to tell whether the end marker is there."""
    stream.seek(0)
    head = stream.read(8)
    stream.seek(max(8, stream.seek(0, io.SEEK_END) - length))
    return head + stream.read()


def _truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker: decoders fill the missing part with grey and say nothing."""
    if data[:2] == b"\xff\xd8":
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    return data[:4] == b"\x89PNG" and b"IEND" not in data[-(1 << 16) :]


def _decoded_by_opencv(data: bytes) -> Pixels | None:
    opencv = _opencv()
    try:
        image = opencv.imdecode(np.frombuffer(data, np.uint8), opencv.IMREAD_COLOR)
        return None if image is None else cast(Pixels, opencv.cvtColor(image, opencv.COLOR_BGR2RGB))
    except opencv.error:
        return None


def _decoded_by_pillow(data: bytes) -> Pixels | None:
    pillow = _pillow()
    if pillow is None:
        raise Unavailable.extra("A reader of image files (opencv-python-headless or pillow)", "images")
    from PIL import ImageOps

    try:
        image = ImageOps.exif_transpose(pillow.open(io.BytesIO(data)))
        if image.mode.startswith("I"):  # 16-bit grey, which convert() would saturate
            grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError):
        return None


def _planes(image: Pixels) -> Sequence[Pixels]:
    """The three channels; OpenCV separates them faster than a strided read does."""
    opencv = _opencv()
    if opencv is not None and image.flags.c_contiguous:
        return cast("Sequence[Pixels]", opencv.split(image))
    return [image[..., channel] for channel in range(3)]


def _resized_by_numpy(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Separable bilinear interpolation in float32, in blocks of rows that stay in the cache."""
    height, width = image.shape[:2]
    above, below, down = _taps(height, size[0])
    left, right, across = _taps(width, size[1])
    # Pixels are gathered as single numbers from flat rows: numpy's take is much slower on groups of three.
    channels = np.arange(3)
    left, right = (left[:, None] * 3 + channels).ravel(), (right[:, None] * 3 + channels).ravel()
    across = np.repeat(across, 3)
    rows = np.ascontiguousarray(image).reshape(height, width * 3)
    out = np.empty((size[0], size[1] * 3), np.uint8)
    for start in range(0, size[0], 32):
        block = slice(start, start + 32)
        blended = _blend(
            rows[above[block]].astype(np.float32), rows[below[block]].astype(np.float32), down[block, None]
        )
        pixels = _blend(blended.take(left, axis=1), blended.take(right, axis=1), across)
        pixels += np.float32(0.5)
        out[block] = pixels
    return out.reshape(*size, 3)


def _blend(first: Floats, second: Floats, weight: Floats) -> Floats:
    second -= first
    second *= weight
    first += second
    return first


def _taps(length: int, wanted: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """For each of ``wanted`` positions: its two neighbours among ``length``, and the weight of the second."""
    position = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    position = position.clip(0, length - 1)
    first = np.floor(position).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (position - first).astype(np.float32)


@functools.cache
def _opencv() -> Any:
    """The module ``cv2``, or ``None``."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


@functools.cache
def _pillow() -> Any:
    """The module ``PIL.Image``, or ``None``."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image
