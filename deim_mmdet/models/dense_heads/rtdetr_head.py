# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptMultiConfig
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.matches import Matches
from deim_mmdet.models.task_modules.targets import BatchTargets
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy

from .stacked_losses import box_terms, mean_over_ranks, name_terms


@dataclass(frozen=True)
class Assignment:
    """Which pairs supervise a stack of sets, and what the losses are divided by.

    Attributes:
        cls (Matches): Pairs of the classification loss.
        box (Matches): Pairs of the box losses.
        num_cls (Tensor): Normaliser of the classification loss, scalar.
        num_box (Tensor): Normaliser of the box losses, scalar.
    """

    cls: Matches
    box: Matches
    num_cls: Tensor
    num_box: Tensor


@MODELS.register_module()
class RTDETRHead(BaseModule):
    """Matching, losses and post-processing of RT-DETR and RT-DETRv2; of DEIM-RT-DETRv2 with
    ``loss_cls=dict(type='MatchabilityAwareLoss')``.

    It has no weights: the decoder predicts.

    Args:
        num_classes (int): Number of classes C.
        loss_cls (dict): Classification loss that takes the IoU of a match as its target.
        loss_bbox (dict): L1 loss on normalised cxcywh.
        loss_iou (dict): IoU loss on xyxy.
        matcher (dict): Config of the set matcher.
        test_cfg (dict, optional): ``max_per_img``: detections kept per image, 300 by default.
        init_cfg (dict, optional): Initialisation config.
    """

    def __init__(
        self,
        num_classes: int,
        loss_cls: ConfigType = dict(
            type='IoUVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0
        ),
        loss_bbox: ConfigType = dict(type='L1Loss', loss_weight=5.0),
        loss_iou: ConfigType = dict(type='GIoULoss', loss_weight=2.0),
        matcher: ConfigType = dict(type='SetMatcher'),
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ):
        super().__init__(init_cfg)
        if num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}')
        self.num_classes = num_classes
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_iou = MODELS.build(loss_iou)
        self.matcher = TASK_UTILS.build(matcher)
        self.max_per_img = (test_cfg or {}).get('max_per_img', 300)

    def loss(
        self,
        sets: PredictionSets,
        targets: BatchTargets,
        denoising_sets: Optional[PredictionSets] = None,
        denoising: Optional[DenoisingQueries] = None,
    ) -> Dict[str, Tensor]:
        """Match once, lose once.

        Args:
            sets (PredictionSets): Stacked predictions, the encoder's first, the final layer's last.
            targets (BatchTargets): Ground truth of the batch.
            denoising_sets (PredictionSets, optional): Predictions of the denoising queries; no
                encoder set.
            denoising (DenoisingQueries, optional): Their known pairs and number of groups.

        Returns:
            dict[str, Tensor]: Weighted scalars, named as mmdet's DETR heads name theirs:
            ``loss_cls`` of the final layer, ``d0.loss_cls`` of the first, ``enc_loss_cls`` of the
            encoder, ``dn_loss_cls``, ``d0.dn_loss_cls`` of the denoising queries.
        """
        with torch.autocast(sets.bboxes.device.type, enabled=False):
            sets = sets.float()
            assignment = self.assign(sets, targets)
            terms = self.loss_terms(sets, targets, assignment)
            losses = self.name_terms(terms, self.set_names(len(sets.bboxes)))
            if denoising_sets is not None:
                denoising_sets = denoising_sets.float()
                known = self.assign_denoising(denoising, assignment)
                terms = self.loss_terms(denoising_sets, targets, known)
                names = self.set_names(len(sets.bboxes))[1:]
                losses.update(self.name_terms(terms, [f'{name}dn_' for name in names]))
        return losses

    def assign(self, sets: PredictionSets, targets: BatchTargets) -> Assignment:
        """Every set is matched on its own, for all its losses."""
        matches = self.matcher(sets.cls_scores, sets.bboxes, targets)
        (num_boxes,) = mean_over_ranks([sum(targets.counts)], sets.bboxes.device)
        return Assignment(cls=matches, box=matches, num_cls=num_boxes, num_box=num_boxes)

    def assign_denoising(self, denoising: DenoisingQueries, assignment: Assignment) -> Assignment:
        """The object a denoising query was made from is known, the same for all sets."""
        num_pairs = assignment.num_cls * denoising.num_groups
        return Assignment(
            cls=denoising.matches, box=denoising.matches, num_cls=num_pairs, num_box=num_pairs
        )

    def loss_terms(
        self, sets: PredictionSets, targets: BatchTargets, assignment: Assignment
    ) -> Dict[str, Tensor]:
        """All loss terms of all sets.

        Returns:
            dict[str, Tensor]: Term -> weighted values, shape (K,), of the last K sets.
        """
        matches = assignment.cls
        ious = aligned_iou(
            cxcywh_to_xyxy(matches.gather(sets.bboxes.detach())),
            cxcywh_to_xyxy(targets.boxes[matches.target_index]),
        )
        loss_cls = self.loss_cls.loss_per_set(
            sets.cls_scores, matches, targets.labels[matches.target_index], ious, assignment.num_cls
        )
        return dict(loss_cls=loss_cls, **self.box_terms(sets, targets, assignment))

    def box_terms(
        self, sets: PredictionSets, targets: BatchTargets, assignment: Assignment
    ) -> Dict[str, Tensor]:
        """L1 on cxcywh and IoU loss on xyxy of every set, each shape (S,)."""
        bboxes = assignment.box.gather(sets.bboxes)  # (S, P, 4)
        gt_bboxes = targets.boxes[assignment.box.target_index]
        return box_terms(self.loss_bbox, self.loss_iou, bboxes, gt_bboxes, assignment.num_box)

    def set_names(self, num_sets: int) -> List[str]:
        """Key prefix of every set, encoder first: mmdet's names."""
        return ['enc_', *(f'd{i}.' for i in range(num_sets - 2)), '']

    def name_terms(self, terms: Dict[str, Tensor], names: List[str]) -> Dict[str, Tensor]:
        """Spread each term's values over keys; K values belong to the last K sets."""
        return name_terms(terms, names)

    def predict(
        self,
        cls_scores: Tensor,
        bboxes: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> InstanceList:
        """Detections of a batch.

        Args:
            cls_scores (Tensor): Class logits of one set, shape (bs, N, C).
            bboxes (Tensor): Normalised boxes, shape (bs, N, 4), ordered (cx, cy, w, h), each in
                [0, 1].
            batch_data_samples (list[DetDataSample]): Meta information of the images.
            rescale (bool): Whether boxes are in pixels of the original image, or of the input.

        Returns:
            list[InstanceData]: Per image ``bboxes`` (K, 4) as xyxy, clipped to the image,
            ``scores`` (K,) falling, ``labels`` (K,).
        """
        scores, labels, bboxes = top_detections(cls_scores, bboxes, self.max_per_img)
        metas = [sample.metainfo for sample in batch_data_samples]
        # boxes span the padded batch; sizes travel to the device in one copy
        sizes_wh = [meta.get('batch_input_shape', meta['img_shape'])[::-1] for meta in metas]
        limits_wh = [meta['img_shape'][1::-1] for meta in metas]
        scales_wh = [meta['scale_factor'] if rescale else (1, 1) for meta in metas]
        limits = bboxes.new_tensor([sizes_wh, limits_wh, scales_wh])
        sizes, limits, scales = limits.repeat(1, 1, 2).unsqueeze(2)  # each (bs, 1, 4)
        bboxes = torch.minimum((bboxes * sizes).clamp(min=0), limits) / scales
        return [
            InstanceData(bboxes=bboxes[i], scores=scores[i], labels=labels[i])
            for i in range(len(metas))
        ]


def top_detections(
    cls_scores: Tensor, bboxes: Tensor, max_per_img: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """The best (query, class) combinations; a query may appear with several classes.

    Args:
        cls_scores (Tensor): Class logits, shape (bs, N, C).
        bboxes (Tensor): Normalised boxes, shape (bs, N, 4), ordered (cx, cy, w, h).
        max_per_img (int): How many to keep.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Scores (bs, K) falling, labels (bs, K), normalised boxes
        (bs, K, 4) ordered (x1, y1, x2, y2); K = min(max_per_img, N * C).
    """
    num_classes = cls_scores.shape[-1]
    scores = cls_scores.float().sigmoid().flatten(1)  # (bs, N, C) -> (bs, N * C)
    scores, index = scores.topk(min(max_per_img, scores.shape[1]), dim=1)
    query = torch.div(index, num_classes, rounding_mode='trunc')  # 'floor' makes six ONNX nodes
    bboxes = cxcywh_to_xyxy(bboxes.float()).gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
    return scores, index - query * num_classes, bboxes
