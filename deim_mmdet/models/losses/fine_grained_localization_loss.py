# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Tuple, Union

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor


def fine_grained_localization_loss(
    corners: Tensor, bins_left: Tensor, weight_left: Tensor, weight_right: Tensor
) -> Tensor:
    """Cross-entropy of the edge distributions against two neighbouring bins per side.

    Args:
        corners (Tensor): Logits of the bins, shape (..., P, 4 * (reg_max + 1)), ordered left, top,
            right, bottom.
        bins_left (Tensor): The lower bin of each side, shape (P, 4), long, in [0, reg_max - 1].
        weight_left (Tensor): Weight of that bin, shape (P, 4).
        weight_right (Tensor): Weight of the next bin, shape (P, 4).

    Returns:
        Tensor: Sum over the sides, shape (..., P).
    """
    # (..., P, 4 * (reg_max + 1)) -> (..., P, 4, reg_max + 1) -> (..., P, 4, 2)
    log_probabilities = corners.unflatten(-1, (4, -1)).log_softmax(-1)
    bins = torch.stack((bins_left, bins_left + 1), dim=-1)
    neighbours = log_probabilities.gather(-1, bins.expand(*log_probabilities.shape[:-1], 2))
    weights = torch.stack((weight_left, weight_right), dim=-1)
    return -(neighbours * weights).sum((-2, -1))


@MODELS.register_module()
class FineGrainedLocalizationLoss(nn.Module):
    """FGL of `D-FINE <https://arxiv.org/abs/2410.13842>`_: each pair weighs as much as its IoU.

    Args:
        loss_weight (float): Factor of the result. Defaults to 0.15.
    """

    def __init__(self, loss_weight: float = 0.15) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        corners: Tensor,
        bins: Tuple[Tensor, Tensor, Tensor],
        ious: Tensor,
        normalizer: Union[Tensor, float],
    ) -> Tensor:
        """Loss of each decoder layer, in one go.

        Args:
            corners (Tensor): Logits of the bins of matched queries, shape
                (L, P, 4 * (reg_max + 1)).
            bins (tuple[Tensor, Tensor, Tensor]): What
                :func:`~deim_mmdet.ops.edge_distances.boxes_to_bins` says of the objects of the
                pairs, each of shape (P, 4): lower bin, its weight, weight of the next bin.
            ious (Tensor): IoU of each layer's box with its object, shape (L, P). Detached here.
            normalizer (Tensor | float): What the sums are divided by.

        Returns:
            Tensor: Shape (L,), times ``loss_weight``.
        """
        loss = fine_grained_localization_loss(corners.float(), *bins) * ious.detach()
        return self.loss_weight * loss.sum(-1) / normalizer
