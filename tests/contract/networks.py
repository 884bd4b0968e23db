"""Networks of other kinds than a detector: nothing in an exporter may know what it exports."""

from __future__ import annotations

import torch
from torch import nn


class Classifier(nn.Module):
    """Inverted residuals as in MobileNetV2: depthwise convolutions, batch normalisation, ReLU6, global pooling."""

    example_inputs = (torch.zeros(1, 3, 48, 48),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(32, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 7))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = self.stem(image)
        inner = inner + self.project(self.depthwise(self.expand(inner)))
        logits: torch.Tensor = self.classify(self.pool(inner))
        return logits


class Attention(nn.Module):
    """Self-attention with several heads, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        parts = self.project(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        result: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        return result


class Transformer(nn.Module):
    """A vision transformer of one block: patches, position, attention, GELU, layer normalisation."""

    example_inputs = (torch.zeros(1, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        width = 32
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attentions = nn.ModuleList(Attention(width, 4) for _ in range(1))
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(1)
        )
        self.classify = nn.Linear(width, 6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        for i, (attention, mixer) in enumerate(zip(self.attentions, self.mixers, strict=True)):
            tokens = tokens + attention(self.norms[2 * i](tokens))
            tokens = tokens + mixer(self.norms[2 * i + 1](tokens))
        logits: torch.Tensor = self.classify(tokens.mean(1))
        return logits


def classifier() -> nn.Module:
    """With batch statistics that are not those of a new layer."""
    torch.manual_seed(1)
    network = Classifier().train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.rand(4, 3, 48, 48))
    return network.eval()


def transformer() -> nn.Module:
    """With weights from a seed."""
    torch.manual_seed(2)
    return Transformer().eval()
