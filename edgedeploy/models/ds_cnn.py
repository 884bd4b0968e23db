"""A small convolutional keyword network, after Zhang et al., "Hello Edge" (arXiv:1711.07128): DS-CNN.

One convolution and four depthwise separable ones of 64 channels, then the mean over time and frequency. There it is fed
49 frames of 10 coefficients, each 20 ms after the last; here frames come every 10 ms and have many mel bins, so the
first kernel and its stride are longer by the same factors in time, and wider in frequency.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DsCnn(nn.Module):
    """Features (N, frames, bins), any number of frames, to logits (N, classes).

    Args:
        classes: words.
        bins: of a frame.
        channels: of every layer.
        blocks: depthwise separable ones.
    """

    def __init__(self, classes: int, bins: int = 128, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.classes, self.bins, self.lookahead = classes, bins, 0
        stride = max(1, bins // 16)
        kernel = (20, 2 * stride)
        self.first = nn.Sequential(
            nn.Conv2d(1, channels, kernel, (4, stride), (kernel[0] // 2, kernel[1] // 2), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(_block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, frames, bins)."""
        maps: Tensor = self.blocks(self.first(features.unsqueeze(1)))
        logits: Tensor = self.head(torch.mean(maps, dim=(2, 3)))
        return logits


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
