"""Which anchors learn which box, and what they are told: the training loss of the aerial detector.

Sources: task-aligned assignment, TOOD, arXiv:2108.07755, section 3.2; generalised IoU, arXiv:1902.09630.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgedeploy.models.aerial import Prediction

CANDIDATES = 9
"""Anchors that one box may have."""


def corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) given as cx cy w h, as x1 y1 x2 y2 (..., 4)."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of corner boxes (..., 4), broadcast against each other."""
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b))
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    both = shared.clamp(min=0).prod(-1)
    union = area_a + area_b - both
    iou = both / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


@torch.no_grad()
def assign(
    boxes: Tensor, scores: Tensor, centres: Tensor, strides: Tensor, truth: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Give each box of one image its best anchors.

    An anchor may take a box when its middle is inside the box, or within half a cell of the box's middle
    (narrow boxes hold no middle). Of these, the ones whose prediction agrees best, score * IoU^4, are taken.

    Args:
        boxes: (anchors, 4) predicted corners in pixels.
        scores: (anchors, classes) predicted probabilities.
        centres: (anchors, 2) in pixels.
        strides: (anchors,) in pixels.
        truth: (n, 4) corners of the boxes in the image, n >= 1.
        classes: (n,) their classes.

    Returns:
        Index into `truth` per anchor (anchors,), -1 for background, and how strongly the anchor should
        believe it (anchors,), 0 to 1: its agreement, scaled so that a box's best anchor gets its IoU.
    """
    low, high = truth[:, None, :2], truth[:, None, 2:]
    inset = torch.cat([centres[None] - low, high - centres[None]], dim=-1).amin(-1)
    off = (centres[None] - (low + high) / 2).abs().amax(-1)
    allowed = (inset > 0) | (off <= strides / 2)
    iou = overlap(boxes[None], truth[:, None])[0] * allowed
    agreement = scores[:, classes].T.sqrt() * iou**4 + allowed * 1e-9
    best = agreement.topk(min(CANDIDATES, agreement.shape[1]), dim=1).indices
    chosen = torch.zeros_like(allowed).scatter_(1, best, True) & allowed
    owner = torch.where(chosen, iou, -1.0).argmax(0)  # an anchor wanted by two boxes goes to the closer one
    taken = chosen.gather(0, owner[None])[0]
    mine = functional.one_hot(owner, len(truth)).T.bool() & taken
    peak = (agreement * mine).amax(1, keepdim=True).clamp(min=1e-12)
    reach = (iou * mine).amax(1, keepdim=True)
    belief = (agreement * mine / peak * reach).amax(0)
    return torch.where(taken, owner, -1), belief


def loss(found: Prediction, truths: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Box and class loss of a batch, both scalars, to be weighted and added.

    Args:
        found: the model's prediction for the batch.
        truths: per image, corners (n, 4) in pixels and classes (n,).
    """
    boxes, logits = corners(found.boxes.transpose(1, 2).float()), found.logits.transpose(1, 2).float()
    goal = torch.zeros_like(logits)
    predicted, wanted, weights = [], [], []
    for image, (truth, classes) in enumerate(truths):
        if not len(truth):
            continue
        scores = logits[image].detach().sigmoid()
        owner, belief = assign(boxes[image].detach(), scores, found.centres.T, found.strides, truth, classes)
        at = owner.ge(0).nonzero()[:, 0]
        goal[image, at, classes[owner[at]]] = belief[at]
        predicted.append(boxes[image, at])
        wanted.append(truth[owner[at]])
        weights.append(belief[at])
    total = goal.sum().clamp(min=1.0)
    # Quality focal loss (arXiv:2006.04388, equation 6): easy background hardly counts.
    entropy = functional.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    kind = (entropy * (logits.detach().sigmoid() - goal).abs() ** 1.5).sum() / total
    if not predicted:
        return boxes.sum() * 0, kind
    weight = torch.cat(weights).clamp(min=0.1)
    giou = overlap(torch.cat(predicted), torch.cat(wanted))[1]
    return ((1 - giou) * weight).sum() / weight.sum(), kind
