# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import warnings
from abc import abstractmethod
from typing import Optional, Tuple, Union

import torch
import torch.nn.functional as F
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from deim_mmdet.models.task_modules.matches import Matches

# (gamma, alpha) of the classification loss in mmdet's DETR configs
_FOCAL_LOSS = (2.0, 0.25)


class MatchedQualityLoss(QualityFocalLoss):
    """Base of classification losses whose target for a matched query is the IoU of its box.

    It is a :class:`QualityFocalLoss`, because that is what mmdet's DETR heads ask for before they
    hand labels *and* IoUs to their classification loss. In a config that inherits one of theirs,
    write ``loss_cls=dict(_delete_=True, type=...)``: merging would keep the parent's ``gamma`` and
    ``alpha``. Subclasses implement :meth:`elementwise`.

    Args:
        gamma (float): Exponent of the probability of the background.
        alpha (float, optional): Factor of the background; None is the same as 1.
        loss_weight (float): Factor of the result. Defaults to 1.
        reduction (str): "none", "mean" or "sum", for :meth:`forward`. Defaults to "mean".
        use_sigmoid (bool): Only True is supported: one binary problem per class. Defaults to True.
    """

    def __init__(
        self,
        gamma: float,
        alpha: Optional[float],
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        use_sigmoid: bool = True,
    ) -> None:
        name = type(self).__name__
        if not use_sigmoid:
            raise ValueError(
                f'{name} supports use_sigmoid=True only, got False; if a parent config says so, '
                'write loss_cls=dict(_delete_=True, ...)'
            )
        if gamma < 0:
            raise ValueError(f'gamma of {name} must be at least 0, got {gamma}')
        if (gamma, alpha) == _FOCAL_LOSS:
            warnings.warn(
                f"{name} got gamma={gamma} and alpha={alpha}, the values of mmdet's FocalLoss. If "
                'they come from a parent config, write loss_cls=dict(_delete_=True, ...)'
            )
        super().__init__(use_sigmoid=True, reduction=reduction, loss_weight=loss_weight)
        self.gamma = gamma
        self.alpha = alpha
        self._has_warned = False

    @abstractmethod
    def elementwise(self, cls_scores: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
        """Loss of every query and class.

        Args:
            cls_scores (Tensor): Logits, shape (..., C), float32.
            quality (Tensor): IoU in [0, 1] at the class of a matched query, 0 elsewhere, shape
                (..., C). It carries no gradient.
            positive (Tensor): Whether a query is matched to an object of the class, bool, shape
                (..., C). Not the same as ``quality > 0``: the boxes of a pair may not overlap.

        Returns:
            Tensor: Shape (..., C).
        """

    def loss_per_set(
        self,
        cls_scores: Tensor,
        matches: Matches,
        labels: Tensor,
        ious: Tensor,
        normalizer: Union[Tensor, float],
    ) -> Tensor:
        """Loss of each set of a stack of predictions, in one go.

        Args:
            cls_scores (Tensor): Logits, shape (S, bs, N, C).
            matches (Matches): Pairs of each set (S, P) or of all sets (P,).
            labels (Tensor): Class of the object of each pair, same shape as the indices, long.
            ious (Tensor): IoU of each pair, shape (S, P), in [0, 1]. Detached here.
            normalizer (Tensor | float): What the sums are divided by; scalar or shape (S,).

        Returns:
            Tensor: Shape (S,), times ``loss_weight``. Without pairs every query is background.
        """
        cls_scores = cls_scores.float()
        index = (*matches.index(len(cls_scores)), labels)
        quality = torch.zeros_like(cls_scores)
        quality[index] = ious.detach().float()
        positive = torch.zeros_like(cls_scores, dtype=torch.bool)
        positive[index] = True
        loss = self.elementwise(cls_scores, quality, positive)
        return self.loss_weight * loss.sum((1, 2, 3)) / normalizer

    def forward(
        self,
        pred: Tensor,
        target: Union[Tuple[Tensor, Tensor], Tensor],
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """The interface of mmdet's losses.

        Args:
            pred (Tensor): Logits, shape (n, C).
            target (tuple[Tensor, Tensor] | Tensor): Labels, shape (n,), in [0, C - 1], anything
                else being background, and IoUs, shape (n,), in [0, 1]. Or IoUs at their class,
                shape (n, C), 0 for background. Or labels alone, shape (n,), which DDQ's head gives:
                every IoU counts as 1, with a warning.
            weight (Tensor, optional): Of each query, shape (n,). Defaults to None.
            avg_factor (float, optional): What the sum is divided by; with reduction "mean" only.
                Defaults to None: the mean over the queries.
            reduction_override (str, optional): In place of ``reduction``. Defaults to None.

        Returns:
            Tensor: Scalar, or shape (n,) with reduction "none", times ``loss_weight``.

        Raises:
            ValueError: If the reduction is unknown.
        """
        reduction = reduction_override or self.reduction
        if reduction not in ('none', 'mean', 'sum'):
            raise ValueError(f'reduction must be "none", "mean" or "sum", got {reduction!r}')
        quality, positive = self._dense_target(target, pred.shape[1])
        loss = self.elementwise(pred.float(), quality, positive).sum(1)
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def _dense_target(
        self, target: Union[Tuple[Tensor, Tensor], Tensor], num_classes: int
    ) -> Tuple[Tensor, Tensor]:
        """Quality and positive mask, each of shape (n, C)."""
        if isinstance(target, Tensor) and target.dim() == 2:
            quality = target.detach().float()
            return quality, quality > 0
        if isinstance(target, Tensor):
            self._warn_of_missing_ious()
            target = (target, torch.ones_like(target, dtype=torch.float32))
        labels, ious = target
        is_class = (labels >= 0) & (labels < num_classes)
        labels = labels.where(is_class, torch.full_like(labels, num_classes))
        positive = F.one_hot(labels, num_classes + 1)[:, :num_classes].bool()
        return positive * ious.detach().float()[:, None], positive

    def _warn_of_missing_ious(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f'{type(self).__name__} was given labels without IoUs and takes every IoU as 1. '
                "mmdet's DDQDETRHead does this: use type='QualityDDQDETRHead' in its place."
            )
