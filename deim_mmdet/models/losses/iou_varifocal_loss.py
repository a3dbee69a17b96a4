# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from .matched_quality_loss import MatchedQualityLoss


def iou_varifocal_loss(
    cls_scores: Tensor,
    quality: Tensor,
    positive: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Tensor:
    """Varifocal loss (`arXiv:2008.13367 <https://arxiv.org/abs/2008.13367>`_) with IoU targets.

    With p the probability and q the IoU of a matched query, both without gradient in weight and
    target: q * BCE(p, q) where matched, alpha * p^gamma * BCE(p, 0) elsewhere.

    Args:
        cls_scores (Tensor): Logits, shape (..., C).
        quality (Tensor): q at the class of a matched query, 0 elsewhere, shape (..., C).
        positive (Tensor): Whether matched, bool, shape (..., C).
        alpha (float): Factor where not matched. Defaults to 0.75.
        gamma (float): Exponent of p where not matched. Defaults to 2.

    Returns:
        Tensor: Loss of each element, shape (..., C).
    """
    weight = alpha * cls_scores.detach().sigmoid().pow(gamma)
    weight = quality.where(positive, weight)
    return F.binary_cross_entropy_with_logits(cls_scores, quality, weight, reduction='none')


@MODELS.register_module()
class IoUVarifocalLoss(MatchedQualityLoss):
    """VFL as RT-DETR and D-FINE use it: the target of a matched query is the IoU of its box.

    Differs from mmdet's ``VarifocalLoss``: the weights carry no gradient, and it takes labels and
    IoUs, so that it also serves the DETR-like heads of mmdet, see :class:`MatchedQualityLoss`.

    Args:
        alpha (float): Factor of the background. Defaults to 0.75.
        gamma (float): Exponent of the probability of the background. Defaults to 2.
        loss_weight (float): Factor of the result. Defaults to 1.
        reduction (str): "none", "mean" or "sum", for mmdet's heads. Defaults to "mean".
        use_sigmoid (bool): Only True is supported. Defaults to True.
    """

    def __init__(
        self,
        alpha: float = 0.75,
        gamma: float = 2.0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        use_sigmoid: bool = True,
    ) -> None:
        super().__init__(gamma, alpha, loss_weight, reduction, use_sigmoid)

    def elementwise(self, cls_scores: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
        """See :func:`iou_varifocal_loss`."""
        return iou_varifocal_loss(cls_scores, quality, positive, self.alpha, self.gamma)
