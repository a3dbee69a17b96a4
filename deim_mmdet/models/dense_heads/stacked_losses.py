# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Losses of all prediction sets in one call each, and what they are divided by."""

from typing import Dict, List

import torch
import torch.nn as nn
from mmdet.utils import reduce_mean
from torch import Tensor

from deim_mmdet.ops.boxes import cxcywh_to_xyxy


def box_terms(
    loss_bbox: nn.Module, loss_iou: nn.Module, bboxes: Tensor, gt_bboxes: Tensor, normalizer: Tensor
) -> Dict[str, Tensor]:
    """L1 on cxcywh and IoU loss on xyxy of every set.

    Args:
        loss_bbox (nn.Module): mmdet's L1 loss.
        loss_iou (nn.Module): mmdet's IoU or GIoU loss.
        bboxes (Tensor): Boxes of the matched queries, shape (S, P, 4), ordered (cx, cy, w, h).
        gt_bboxes (Tensor): Boxes of their objects, shape (P, 4) or (S, P, 4), same order and unit.
        normalizer (Tensor): What the sums are divided by, scalar.

    Returns:
        dict[str, Tensor]: ``loss_bbox`` and ``loss_iou``, each shape (S,), weighted.
    """
    gt_bboxes = gt_bboxes.expand_as(bboxes)
    # without pairs mmdet's L1Loss returns a scalar zero
    l1 = loss_bbox(bboxes, gt_bboxes, reduction_override='none').expand_as(bboxes)
    iou = loss_iou(
        cxcywh_to_xyxy(bboxes).flatten(0, 1),
        cxcywh_to_xyxy(gt_bboxes).flatten(0, 1),
        reduction_override='none',
    )
    return dict(
        loss_bbox=l1.sum((1, 2)) / normalizer,
        loss_iou=iou.view(bboxes.shape[:2]).sum(1) / normalizer,
    )


def name_terms(terms: Dict[str, Tensor], names: List[str]) -> Dict[str, Tensor]:
    """Spread each term's values over keys; K values belong to the last K of ``names``."""
    return {
        f'{name}{term}': value
        for term, values in terms.items()
        for name, value in zip(names[-len(values) :], values.unbind())
    }


def mean_over_ranks(counts: List[int], device: torch.device) -> Tensor:
    """Normalisers of a distributed step: means over the ranks, at least 1, in one reduction.

    Args:
        counts (list[int]): Counts of this rank.
        device (torch.device): Where the losses are.

    Returns:
        Tensor: Shape (len(counts),).
    """
    return reduce_mean(torch.tensor(counts, dtype=torch.float32, device=device)).clamp(min=1)
