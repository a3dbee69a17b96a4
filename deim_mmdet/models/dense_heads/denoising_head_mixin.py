# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Optional, Union

import torch
import torch.nn.functional as F
from mmdet.models.losses import FocalLoss, QualityFocalLoss
from mmdet.structures import SampleList
from torch import Tensor

from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy

from .stacked_losses import box_terms, mean_over_ranks, name_terms

References = Union[Tensor, List[Tensor]]


class DenoisingHeadMixin:
    """Adds the losses of the denoising queries to a DETR head of mmdet that predicts from
    ``hidden_states`` and ``references``: that of DAB-, Conditional or Deformable DETR.

    To be named before the head among the bases. Without denoising queries the head is unchanged.

    Differs from the published implementation: the losses of the denoising queries are divided by
    the mean of their number over the ranks, at least 1, as those of the normal queries are, not by
    the number of the own rank.
    """

    def loss(
        self,
        hidden_states: Tensor,
        references: References,
        batch_data_samples: SampleList,
        denoising: Optional[DenoisingQueries] = None,
        targets: Optional[BatchTargets] = None,
        **kwargs,
    ) -> Dict[str, Tensor]:
        """Losses of mmdet's head for the normal queries, and those of the denoising queries.

        Args:
            hidden_states (Tensor): Outputs of the decoder layers, shape (L, bs, Nd + N,
                embed_dims), the denoising queries first.
            references (Tensor | list[Tensor]): Of the same queries, as the head takes them.
            batch_data_samples (list[DetDataSample]): Ground truth of the batch.
            denoising (DenoisingQueries, optional): The denoising queries. Defaults to None: all
                queries are normal.
            targets (BatchTargets, optional): The objects that they were made from.
            kwargs: What else the head takes.

        Returns:
            dict[str, Tensor]: Weighted scalars; ``dn_loss_cls`` of the final layer,
            ``d0.dn_loss_cls`` of the first, and so on, are those of the denoising queries.
        """
        if denoising is None:
            return super().loss(
                hidden_states, references, batch_data_samples=batch_data_samples, **kwargs
            )
        num_denoising = denoising.content.shape[1]
        normal, noisy = slice(num_denoising, None), slice(num_denoising)
        losses = super().loss(
            hidden_states[:, :, normal],
            part_of(references, normal),
            batch_data_samples=batch_data_samples,
            **kwargs,
        )
        cls_scores, bboxes = self(hidden_states[:, :, noisy], part_of(references, noisy))
        with torch.autocast(bboxes.device.type, enabled=False):
            terms = self.denoising_terms(cls_scores.float(), bboxes.float(), denoising, targets)
        names = [f'd{layer}.dn_' for layer in range(len(cls_scores) - 1)] + ['dn_']
        return {**losses, **name_terms(terms, names)}

    def denoising_terms(
        self,
        cls_scores: Tensor,
        bboxes: Tensor,
        denoising: DenoisingQueries,
        targets: BatchTargets,
    ) -> Dict[str, Tensor]:
        """All layers at once, over the P known pairs of query and object.

        Args:
            cls_scores (Tensor): Class logits of the denoising queries, shape (L, bs, Nd, C).
            bboxes (Tensor): Normalised boxes, shape (L, bs, Nd, 4), ordered (cx, cy, w, h).
            denoising (DenoisingQueries): The denoising queries.
            targets (BatchTargets): The objects, in the same unit as ``bboxes``.

        Returns:
            dict[str, Tensor]: ``loss_cls``, ``loss_bbox`` and ``loss_iou``, each shape (L,).
        """
        matches = denoising.matches
        (num_pairs,) = mean_over_ranks([len(matches)], bboxes.device)
        cls_scores, bboxes = matches.gather(cls_scores), matches.gather(bboxes)  # (L, P, ...)
        gt_bboxes = targets.boxes[matches.target_index]
        labels = targets.labels[matches.target_index].expand(bboxes.shape[:2])
        if isinstance(self.loss_cls, QualityFocalLoss):  # e.g. MatchabilityAwareLoss
            ious = aligned_iou(cxcywh_to_xyxy(bboxes.detach()), cxcywh_to_xyxy(gt_bboxes))
            labels = (labels.flatten(), ious.flatten())
        else:
            labels = labels.flatten()
            if isinstance(self.loss_cls, FocalLoss):
                # the CUDA operator for indices looks for their maximum: an error without pairs
                labels = F.one_hot(labels, cls_scores.shape[-1])
        loss_cls = self.loss_cls(cls_scores.flatten(0, 1), labels, reduction_override='none')
        loss_cls = loss_cls.unflatten(0, bboxes.shape[:2]).flatten(1).sum(1)
        return dict(
            loss_cls=loss_cls / num_pairs,
            **box_terms(self.loss_bbox, self.loss_iou, bboxes, gt_bboxes, num_pairs),
        )


def part_of(references: References, part: slice) -> References:
    """References (..., queries, 2 or 4), or a list of them, of a part of the queries."""
    if isinstance(references, Tensor):
        return references[..., part, :]
    return [reference[..., part, :] for reference in references]
