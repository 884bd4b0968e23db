"""What a keyword network has to beat: a linear classifier of the mean features, found by scikit-learn.

The other one, DS-CNN, is a network like any other, and trained by the same loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgedeploy.errors import Unavailable
from edgedeploy.models.mean_fbank import MeanFbank
from edgedeploy.train.bank import Bank
from edgedeploy.train.evaluation import Score, judge

#: Inverse strengths of the penalty on the weights that are tried.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def fit_linear(train: Bank, val: Bank) -> MeanFbank:
    """Logistic regression on the mean over the frames.

    The strength of the penalty is that of `STRENGTHS` that recognises most validation clips, and of those the
    strongest. It sees the same window of the same clips as the networks, without augmentation. Its logits are those of
    a softmax, so that only their order says something here.

    Raises:
        Unavailable: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise Unavailable.extra("scikit-learn, which finds the linear classifier,", "train") from None
    means = train.means()
    centre, spread = means.mean(axis=0), means.std(axis=0) + np.float32(1e-6)
    best: tuple[MeanFbank, Score] | None = None
    for strength in STRENGTHS:
        found = LogisticRegression(C=strength, max_iter=10_000).fit((means - centre) / spread, train.words)
        network = _network(found, centre, spread, len(train.clips.labels))
        score = judge(network, val)
        if best is None or score.right > best[1].right:
            best = network, score
    assert best is not None
    return best[0]


def _network(found: Any, centre: np.ndarray, spread: np.ndarray, classes: int) -> MeanFbank:
    """What scikit-learn has found, as a network; a word without a clip to learn from is never heard."""
    weights, bias = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # of two classes there is one row: the log odds of the second
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    network = MeanFbank(classes, len(centre)).eval()
    scaled = weights / spread
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-1e3)
        for row, word in enumerate(found.classes_):
            network.head.weight[int(word)] = torch.from_numpy(scaled[row])
            network.head.bias[int(word)] = float(bias[row] - scaled[row] @ centre)
    return network
