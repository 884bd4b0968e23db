"""The full-window network that LMUFormer's paper compares with: an audio spectrogram transformer, for its size.

After Gong, Chung and Glass, "AST" (arXiv:2104.01778): ViT-B over overlapping patches of the features, with a class and
a distillation token. Weights are drawn, not trained: this is here to be counted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, STRIDE = 16, 10


class Block(nn.Module):
    """Attention and a network for each token, both with a norm in front and beside a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        split = self.qkv(self.first(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        narrow: Tensor = self.narrow(functional.gelu(self.widen(self.second(x))))
        return x + narrow


class AstLike(nn.Module):
    """Features (batch, frames, bins) of a whole clip to logits (batch, classes)."""

    def __init__(
        self, classes: int, frames: int = 128, bins: int = 128, dim: int = 768, depth: int = 12, heads: int = 12
    ) -> None:
        super().__init__()
        self.tokens = patches(frames) * patches(bins) + 2
        self.patches = nn.Conv2d(1, dim, PATCH, STRIDE)
        self.marks = nn.Parameter(torch.zeros(1, 2, dim))
        self.places = nn.Parameter(torch.zeros(1, self.tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, features: Tensor) -> Tensor:
        x = self.patches(features[:, None]).flatten(2).transpose(1, 2)
        x = torch.cat([self.marks.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        marks = self.norm(self.blocks(x))[:, :2]
        logits: Tensor = self.head(marks.mean(dim=1))
        return logits


def patches(length: int) -> int:
    """How many patches fit along an axis of this length."""
    return (length - PATCH) // STRIDE + 1
