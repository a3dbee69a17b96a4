# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import Optional, Union

import torch
import torch.nn as nn
from mmdet.models.losses.utils import weighted_loss
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.ops.boxes import aligned_iou, xyxy_to_cxcywh

_EPS = 1e-7  # keeps 0 / 0 out where two boxes are one, or have no size


@weighted_loss
def complete_iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """1 - CIoU of aligned pairs: overlap, distance of the centres and aspect.

    ``CIoU = IoU - d^2 / c^2 - a * v`` with the distance d of the centres, the diagonal c of the
    smallest box around both, ``v = 4 / pi^2 * (atan(w / h) - atan(w' / h'))^2`` and
    ``a = v / (1 - IoU + v)``, which carries no gradient (`arXiv:1911.08287
    <https://arxiv.org/abs/1911.08287>`_, eq. 8 to 11).

    Differs from mmdet's ``CIoULoss``: finite where two boxes are the same, where that one divides 0
    by 0; with weights it does not ask on the host whether any is above 0.

    Args:
        pred (Tensor): Predicted boxes, shape (P, 4), ordered (x1, y1, x2, y2), any unit.
        target (Tensor): Boxes of the objects, same shape, order and unit.

    Returns:
        Tensor: Shape (P,), each in [0, 3]; the decorator adds weights and reduction.
    """
    iou = aligned_iou(pred, target)
    centres, sizes = xyxy_to_cxcywh(pred).split(2, dim=-1)
    target_centres, target_sizes = xyxy_to_cxcywh(target).split(2, dim=-1)
    hull = torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])
    distance = (centres - target_centres).square().sum(-1) / (hull.square().sum(-1) + _EPS)
    aspect = (4 / math.pi**2) * (_angle(sizes) - _angle(target_sizes)).square()
    with torch.no_grad():
        share = aspect / (1 - iou + aspect + _EPS)
    return 1 - iou + distance + share * aspect


def _angle(sizes: Tensor) -> Tensor:
    w, h = sizes.unbind(-1)
    return torch.atan(w / (h + _EPS))


@MODELS.register_module()
class CompleteIoULoss(nn.Module):
    """Weighted :func:`complete_iou_loss`, called as mmdet's IoU losses are.

    Args:
        reduction (str): 'none', 'mean' or 'sum'. Defaults to 'mean'.
        loss_weight (float): Factor of the result. Defaults to 1.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[Union[Tensor, float]] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """Loss of aligned pairs.

        Args:
            pred (Tensor): Predicted boxes, shape (P, 4), ordered (x1, y1, x2, y2), any unit.
            target (Tensor): Boxes of the objects, same shape, order and unit.
            weight (Tensor, optional): Weight of each pair, shape (P,).
            avg_factor (Tensor | float, optional): What the sum is divided by; with 'mean' only.
            reduction_override (str, optional): Reduction in place of the usual one.

        Returns:
            Tensor: A scalar; shape (P,) with 'none'.
        """
        reduction = reduction_override or self.reduction
        return self.loss_weight * complete_iou_loss(
            pred, target, weight, reduction=reduction, avg_factor=avg_factor
        )
