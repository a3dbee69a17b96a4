# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from .iou_varifocal_loss import IoUVarifocalLoss


def full_gradient_varifocal_loss(
    cls_scores: Tensor,
    quality: Tensor,
    positive: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Tensor:
    """The values of :func:`iou_varifocal_loss`; the gradient goes through the weight as well.

    Where not matched the loss is alpha * p^gamma * -log(1 - p), and what is differentiated is all
    of it: alpha * p^gamma * (p - gamma * (1 - p) * log(1 - p)) for the logit.

    Args:
        cls_scores (Tensor): Logits, shape (..., C).
        quality (Tensor): q at the class of a matched query, 0 elsewhere, shape (..., C).
        positive (Tensor): Whether matched, bool, shape (..., C).
        alpha (float): Factor where not matched. Defaults to 0.75.
        gamma (float): Exponent of p where not matched. Defaults to 2.

    Returns:
        Tensor: Loss of each element, shape (..., C).
    """
    weight = quality.where(positive, alpha * cls_scores.sigmoid().pow(gamma))
    return weight * F.binary_cross_entropy_with_logits(cls_scores, quality, reduction='none')


@MODELS.register_module()
class FullGradientVarifocalLoss(IoUVarifocalLoss):
    """VFL as DEYO uses it: RT-DETR's, but a confident false positive is pushed down harder, since
    the weight of the background carries a gradient, too. The arguments are those of the parent.
    """

    def elementwise(self, cls_scores: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
        """See :func:`full_gradient_varifocal_loss`."""
        return full_gradient_varifocal_loss(cls_scores, quality, positive, self.alpha, self.gamma)
