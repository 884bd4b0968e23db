"""The least that a keyword network can be: a linear layer on the mean of the features."""

from __future__ import annotations

from torch import Tensor, nn


class MeanFbank(nn.Module):
    """Features (N, frames, bins), any number of frames, to logits (N, classes)."""

    def __init__(self, classes: int, bins: int = 128) -> None:
        super().__init__()
        self.classes, self.bins, self.lookahead = classes, bins, 0
        self.head = nn.Linear(bins, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of features (N, frames, bins)."""
        logits: Tensor = self.head(features.mean(dim=1))
        return logits
