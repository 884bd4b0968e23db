"""How much a channel matters, told by the scale factors of batch normalisation (Liu et al., arXiv:1708.06519)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgedeploy.compress.pruning.groups import Group
from edgedeploy.errors import UsageError
from edgedeploy.tensors import Array


def importance(network: Any, groups: Sequence[Group]) -> dict[str, Array]:
    """For every group the importance of its channels, (width,) float64, of mean 1.

    ``|gamma|`` of each batch normalisation over its mean, then the mean over those that the group couples, so that
    layers of different scale can be compared. A layer whose factors are all zero scores zero.

    Raises:
        UsageError: a scale factor is not finite.
    """
    return {group.name: _scores(network, group) for group in groups}


def _scores(network: Any, group: Group) -> Array:
    rows = []
    for span in group.layers:
        gamma = network.get_submodule(span.layer).weight.detach()[span.start : span.stop]
        size = np.abs(gamma.cpu().double().numpy())
        if not np.isfinite(size).all():
            raise UsageError(
                f"{span.layer} has scale factors that are not finite: the training of the network diverged."
            )
        mean = size.mean()
        rows.append(size / mean if mean > 0 else size)
    scores: Array = np.mean(rows, axis=0)
    return scores
