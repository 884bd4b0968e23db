"""How far a student's tensors are from its teacher's: one number, in float32 also under mixed precision.

Every function takes the student's tensor first, sends no gradient to the teacher's, and needs equal shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedeploy.errors import UsageError


def cwd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation: where in the image a channel is active, not how strongly.

    Each channel is made a distribution over its S = H * W positions, ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``, and the loss is their divergence, mean over images and channels, sum over positions::

        T^2 / (N C) * sum_n sum_c sum_i p[n,c,i] * (log p[n,c,i] - log q[n,c,i])

    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv:2011.13256.
    A constant added to a channel changes nothing; for large T it tends to half the variance over positions of the
    difference, mean over images and channels.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); seen as constant.
        temperature: T, above 0; the larger, the more the weak positions count.

    Raises:
        UsageError: the shapes differ, or are not four-dimensional.
    """
    ours, theirs = _full_precision(student, teacher, dimensions=4)
    with torch.autocast(student.device.type, enabled=False):
        log_p = F.log_softmax(theirs.flatten(2) / temperature, dim=2)
        log_q = F.log_softmax(ours.flatten(2) / temperature, dim=2)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=2)
        return divergence.mean() * temperature**2


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all N * C * H * W values of two (N, C, H, W) tensors.

    Raises:
        UsageError: the shapes differ, or are not four-dimensional.
    """
    ours, theirs = _full_precision(student, teacher, dimensions=4)
    with torch.autocast(student.device.type, enabled=False):
        return F.mse_loss(ours, theirs)


def logit(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of the class probabilities of a head that decides each class by itself (sigmoid, not softmax).

    With ``p = sigmoid(teacher / T)`` and ``q = sigmoid(student / T)``, for K classes at A anchors::

        T^2 / N * sum_n 1 / max(1, sum_k sum_a p[n,k,a])
                * sum_k sum_a (p log(p / q) + (1 - p) log((1 - p) / (1 - q)))[n,k,a]

    Each image is divided by how much the teacher finds in it, as a detection loss is by its assigned targets: nearly
    all anchors are background, so a mean over anchors would fade as the image grows, and a sum would let crowded images
    decide. The divergence is that of Hinton et al., arXiv:1503.02531, of Bernoulli distributions.

    Args:
        student: (N, K, A), raw class scores.
        teacher: (N, K, A); seen as constant.
        temperature: T, above 0.

    Raises:
        UsageError: the shapes differ, or are not three-dimensional.
    """
    ours, theirs = _full_precision(student, teacher, dimensions=3)
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = ours / temperature, theirs / temperature
        p = theirs.sigmoid()
        yes = p * (F.logsigmoid(theirs) - F.logsigmoid(ours))
        no = (1 - p) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        found = p.sum(dim=(1, 2)).clamp(min=1)
        return ((yes + no).sum(dim=(1, 2)) / found).mean() * temperature**2


def _full_precision(student: Tensor, teacher: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Both in float32 (float64 stays), the teacher cut off from what made it."""
    if student.shape != teacher.shape or student.dim() != dimensions:
        raise UsageError(
            f"The student's tensor is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; distillation "
            f"compares two of {dimensions} dimensions and equal shape. Choose layers of equal stride."
        )
    precision = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(precision), teacher.detach().to(precision)
