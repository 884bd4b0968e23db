"""A small anchor-free detector for vehicles seen from the air, in plain torch.

Convolution, batch normalisation and ReLU only: ReLU folds into the convolution's quantised output on every
backend. A residual backbone feeds three strides (8, 16, 32), a top-down pass mixes them, and a decoupled head
whose weights differ per stride predicts the four distances to the sides of a box (FCOS, arXiv:1904.01355,
section 3.1) and one logit per class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)


class Prediction(NamedTuple):
    """The head's output before the sigmoid; `anchors` counts the cells of all strides, finest first.

    Attributes:
        boxes: (batch, 4, anchors), cx cy w h in input pixels.
        logits: (batch, classes, anchors).
        centres: (2, anchors), x y of the middle of each cell in input pixels.
        strides: (anchors,), pixels per cell.
    """

    boxes: Tensor
    logits: Tensor
    centres: Tensor
    strides: Tensor


class Conv(nn.Sequential):
    """Convolution, batch normalisation and ReLU; halves the size at stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """A narrow 1x1 and a wide 3x3 convolution beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(channels, channels // 2, 1), Conv(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, outputs, stride=2), *(Residual(outputs) for _ in range(depth)))


def _projection(inputs: int, outputs: int, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # this layer has one
    return layer


class Head(nn.Module):
    """Box and class branches of one stride, each a 3x3 convolution and a 1x1 projection.

    At first all sides are 1.7 cells away (softplus of 1.5) and all probabilities 0.01 (sigmoid of -4.6).
    """

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.box = nn.Sequential(Conv(channels, hidden), _projection(hidden, 4, 1.5))
        self.kind = nn.Sequential(Conv(channels, hidden), _projection(hidden, classes, -4.6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(x), self.kind(x)


class AerialNet(nn.Module):
    """Images to boxes: float32 RGB (batch, 3, H, W) in 0..1 to float32 (batch, 4 + classes, anchors).

    H and W are multiples of 32, and anchors = H * W * (1/64 + 1/256 + 1/1024). The rows of the output are
    cx, cy, w, h in input pixels, then one probability per class. Nothing is suppressed: NMS is the caller's.

    Args:
        classes: number of classes.
        widths: channels at strides 2, 4, 8, 16 and 32.
        depths: residual blocks at strides 4, 8, 16 and 32.
        neck: channels of the maps that the heads read.
        hidden: channels inside a head.
    """

    def __init__(
        self,
        classes: int = 4,
        widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128),
        depths: tuple[int, int, int, int] = (1, 2, 2, 1),
        neck: int = 64,
        hidden: int = 48,
    ) -> None:
        super().__init__()
        self.stem = Conv(3, widths[0], stride=2)
        steps = zip(widths[:-1], widths[1:], depths, strict=True)
        self.stages = nn.ModuleList(_stage(inputs, outputs, depth) for inputs, outputs, depth in steps)
        self.lateral = nn.ModuleList(Conv(width, neck, 1) for width in widths[2:])
        self.mix = nn.ModuleList(Residual(neck) for _ in widths[2:])
        self.heads = nn.ModuleList(Head(neck, hidden, classes) for _ in STRIDES)

    def forward(self, images: Tensor) -> Tensor:
        found = self.predict(images)
        return torch.cat([found.boxes, found.logits.sigmoid()], dim=1)

    def predict(self, images: Tensor) -> Prediction:
        """The same boxes with logits instead of probabilities, and where each anchor sits: for a loss."""
        boxes, logits, centres, strides = [], [], [], []
        for stride, head, level in zip(STRIDES, self.heads, self._pyramid(images), strict=True):
            sides, kinds = head(level)
            grid = _grid(level, stride)
            boxes.append(_decode(sides.flatten(2), grid, stride))
            logits.append(kinds.flatten(2))
            centres.append(grid)
            strides.append(torch.full_like(grid[0], stride))
        return Prediction(
            torch.cat(boxes, dim=2), torch.cat(logits, dim=2), torch.cat(centres, dim=1), torch.cat(strides)
        )

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """One map (batch, neck, H / stride, W / stride) per stride, finest first."""
        x = self.stem(images)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        merged: list[Tensor] = []
        for index in (2, 1, 0):
            y = self.lateral[index](levels[index + 1])  # the first level, stride 4, is not read
            if merged:
                y = y + functional.interpolate(merged[0], scale_factor=2.0, mode="nearest")
            merged.insert(0, self.mix[index](y))
        return merged


def _grid(level: Tensor, stride: int) -> Tensor:
    """Middles (2, h * w) of the cells of `level` (batch, channels, h, w) in pixels: x, then y.

    Built from the tensor's shape at every call, so an exported graph serves any image size.
    """
    height, width = level.shape[2], level.shape[3]
    x = (torch.arange(width, device=level.device, dtype=torch.float32) + 0.5) * stride
    y = (torch.arange(height, device=level.device, dtype=torch.float32) + 0.5) * stride
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()])


def _decode(sides: Tensor, centres: Tensor, stride: int) -> Tensor:
    """Left, top, right, bottom (batch, 4, n) in cells, before the softplus, to cx cy w h in pixels.

    Softplus rather than an exponential: it is straight where boxes are large, so an error of one
    quantisation step costs the same number of pixels for a small and a large vehicle.
    """
    near, far = (functional.softplus(sides) * stride).chunk(2, dim=1)
    return torch.cat([centres + (far - near) / 2, far + near], dim=1)
