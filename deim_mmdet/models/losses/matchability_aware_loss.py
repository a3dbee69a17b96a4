# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from .matched_quality_loss import MatchedQualityLoss


def matchability_aware_loss(
    cls_scores: Tensor,
    quality: Tensor,
    positive: Tensor,
    gamma: float = 1.5,
    alpha: Optional[float] = None,
) -> Tensor:
    """Equation 2 of `DEIM <https://arxiv.org/abs/2412.04234>`_.

    With p the probability and q the IoU of a matched query, both without gradient in weight and
    target: BCE(p, q^gamma) where matched, alpha * p^gamma * BCE(p, 0) elsewhere. A match of low
    IoU so keeps its full weight.

    Args:
        cls_scores (Tensor): Logits, shape (..., C).
        quality (Tensor): q at the class of a matched query, 0 elsewhere, shape (..., C).
        positive (Tensor): Whether matched, bool, shape (..., C).
        gamma (float): Exponent of p and of q. Defaults to 1.5.
        alpha (float, optional): Factor where not matched. Defaults to None, the same as 1.

    Returns:
        Tensor: Loss of each element, shape (..., C).
    """
    weight = _power(cls_scores.detach().sigmoid(), gamma)
    if alpha is not None:
        weight = alpha * weight
    weight = weight.masked_fill(positive, 1)
    target = _power(quality, gamma)
    return F.binary_cross_entropy_with_logits(cls_scores, target, weight, reduction='none')


def _power(x: Tensor, gamma: float) -> Tensor:
    # pow() of a fractional exponent takes longer than all the rest of the loss together on a CPU
    return x.sqrt().mul_(x) if gamma == 1.5 else x.pow(gamma)


@MODELS.register_module()
class MatchabilityAwareLoss(MatchedQualityLoss):
    """MAL, the classification loss of `DEIM <https://arxiv.org/abs/2412.04234>`_.

    It also serves the DETR-like heads of mmdet as ``loss_cls``, see :class:`MatchedQualityLoss`.

    Args:
        gamma (float): Exponent of probability and IoU. Defaults to 1.5.
        alpha (float, optional): Factor of the background. Defaults to None, the same as 1.
        loss_weight (float): Factor of the result. Defaults to 1.
        reduction (str): "none", "mean" or "sum", for mmdet's heads. Defaults to "mean".
        use_sigmoid (bool): Only True is supported. Defaults to True.
    """

    def __init__(
        self,
        gamma: float = 1.5,
        alpha: Optional[float] = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        use_sigmoid: bool = True,
    ) -> None:
        super().__init__(gamma, alpha, loss_weight, reduction, use_sigmoid)

    def elementwise(self, cls_scores: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
        """See :func:`matchability_aware_loss`."""
        return matchability_aware_loss(cls_scores, quality, positive, self.gamma, self.alpha)
