# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import DDQDETRHead
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy


@MODELS.register_module()
class QualityDDQDETRHead(DDQDETRHead):
    """mmdet's DDQ head for classification losses that take the IoU of a match as its target.

    mmdet's DETR heads hand such a loss labels and IoUs. Its DDQ head does so for the encoder and
    the denoising queries, but gives bare labels for the distinct queries; this one gives IoUs there
    too. With ``MatchabilityAwareLoss`` as ``loss_cls`` it is DDQ trained the DEIM way.
    """

    def _loss_for_distinct_queries_single(self, *args, **kwargs) -> tuple:
        # NOTE the parent's code, run on a view of this head with other targets
        return DDQDETRHead._loss_for_distinct_queries_single(_DenseTargets(self), *args, **kwargs)


class _DenseTargets:
    """A DDQ head whose classification targets are IoUs at their class, shape (n, C)."""

    def __init__(self, head: DDQDETRHead) -> None:
        self._head = head

    def __getattr__(self, name: str):
        return getattr(self._head, name)

    def get_targets(
        self, cls_scores_list: List[Tensor], bbox_preds_list: List[Tensor], *args, **kwargs
    ) -> tuple:
        """As the head's own, with IoUs (n, C) of each image in place of labels (n,)."""
        labels, label_weights, bbox_targets, *rest = self._head.get_targets(
            cls_scores_list, bbox_preds_list, *args, **kwargs
        )
        split = [len(x) for x in labels]
        qualities = dense_quality(
            torch.cat(labels), torch.cat(bbox_preds_list), torch.cat(bbox_targets), self.num_classes
        )
        return (qualities.split(split), label_weights, bbox_targets, *rest)


def dense_quality(labels: Tensor, bboxes: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """IoU of each query at the class of its object.

    Args:
        labels (Tensor): Class of each query's object, ``num_classes`` for background, shape (n,).
        bboxes (Tensor): Boxes, shape (n, 4), ordered (cx, cy, w, h), any unit.
        targets (Tensor): Boxes of the objects in the same order and unit, shape (n, 4).
        num_classes (int): C.

    Returns:
        Tensor: Shape (n, C), 0 for background. A match that does not overlap has a value too small
            to matter, but not 0, which would make it background.
    """
    ious = aligned_iou(cxcywh_to_xyxy(bboxes.detach()), cxcywh_to_xyxy(targets)).clamp(min=1e-9)
    return F.one_hot(labels, num_classes + 1)[:, :num_classes] * ious[:, None]
