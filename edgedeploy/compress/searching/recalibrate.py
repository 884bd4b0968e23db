"""Statistics of batch normalisation taken anew: what a pruned network needs first, and gets in seconds.

Removed channels change the mean and the variance of everything behind them, while the normalisation still subtracts
those of the whole network. Passing some training images through, with nothing learned, sets that right (B. Li et al.,
"EagleEye: fast sub-net evaluation for efficient neural network pruning", ECCV 2020, section 3.3, adaptive batch
normalisation). What is measured after it ranks pruned networks nearly as they rank after fine-tuning.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from edgedeploy.compress.detector import Detector
from edgedeploy.errors import UsageError
from edgedeploy.tasks.dataset import DetectionSet
from edgedeploy.tasks.detect import Detect
from edgedeploy.tasks.image import read_image

#: Images in one pass.
BATCH = 8


def recalibrate(detector: Detector, data: DetectionSet, count: int = 64, batch: int = BATCH) -> Any:
    """A copy of a detector's network whose batch normalisation knows its own activations; no weight changes.

    Each statistic is the mean over batches, every batch counting the same.

    Args:
        detector: its network is left as it is; images enter it as in `edgedeploy.compress.evaluation`, at its size.
        data: training images; labels are not used.
        count: images that are taken, evenly spread over the data; all where there are fewer.
        batch: images in one pass.

    Raises:
        UsageError: ``count`` or ``batch`` is below 1, there is no image, or an image cannot be read.
    """
    if count < 1 or batch < 1 or not len(data):
        raise UsageError(
            f"Batch normalisation is recalibrated on at least one image, in batches of at least one, not on {count} of "
            f"{len(data)} images in batches of {batch}."
        )
    network = copy.deepcopy(detector.network).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    head = network.model[-1]
    head.training = True  # of itself alone: raw predictions, which need no anchors
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        with torch.no_grad():
            for images in _batches(detector, data, count, batch):
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
    return network


def spread(data: DetectionSet, count: int) -> DetectionSet:
    """At most ``count`` samples of a data set, evenly spread over it; the same ones each time."""
    picks = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
    return data.subset(picks)


def _batches(detector: Detector, data: DetectionSet, count: int, batch: int) -> Iterator[torch.Tensor]:
    """Tensors (n, 3, H, W), all of the same n: a last batch of fewer would count as much as the others."""
    task = Detect.yolov8(detector.labels, detector.size)
    samples = spread(data, count).samples
    batch = min(batch, len(samples))
    for start in range(0, len(samples) - batch + 1, batch):
        prepared = [task.prepare(read_image(sample.image)).tensors[0] for sample in samples[start : start + batch]]
        yield torch.from_numpy(np.concatenate(prepared))
