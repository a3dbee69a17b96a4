# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from typing import Dict, List, Tuple

from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from deim_mmdet.models.dense_heads.rtdetr_head import Assignment, RTDETRHead
from deim_mmdet.models.dense_heads.stacked_losses import mean_over_ranks
from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy
from deim_mmdet.ops.edge_distances import boxes_to_bins, weighting_function


@dataclass(frozen=True)
class UnionAssignment(Assignment):
    """An assignment whose box pairs hold in all sets.

    Attributes:
        roots (tuple[float, float]): Weights of matched and unmatched queries in the distillation.
    """

    roots: Tuple[float, float]


@MODELS.register_module()
class DFINEHead(RTDETRHead):
    """D-FINE's head: the union set for boxes, and two losses on edge distributions (2410.13842).

    Args:
        num_classes (int): Number of classes C.
        loss_fgl (dict): Fine-grained localisation loss.
        loss_ddf (dict): Self-distillation loss.
        reg_max (int): As in the decoder; :class:`DFINE` hands it over.
        reg_scale (float): As in the decoder.
        up (float): As in the decoder.
        kwargs: Arguments of :class:`RTDETRHead`.
    """

    def __init__(
        self,
        num_classes: int,
        loss_fgl: ConfigType = dict(type='FineGrainedLocalizationLoss', loss_weight=0.15),
        loss_ddf: ConfigType = dict(
            type='DecoupledDistillationFocalLoss', temperature=5.0, loss_weight=1.5
        ),
        reg_max: int = 32,
        reg_scale: float = 4.0,
        up: float = 0.5,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        self.loss_fgl = MODELS.build(loss_fgl)
        self.loss_ddf = MODELS.build(loss_ddf)
        self.reg_scale = reg_scale
        bins = weighting_function(reg_max, up, reg_scale)
        self.register_buffer('bin_values', bins, persistent=False)

    def assign(self, sets: PredictionSets, targets: BatchTargets) -> UnionAssignment:
        # NOTE classification uses each set's own pairs, boxes the union of the pairs of all sets
        matches, union = self.matcher.match_with_union(sets.cls_scores, sets.bboxes, targets)
        num_cls, num_box = mean_over_ranks([sum(targets.counts), len(union)], sets.bboxes.device)
        batch_size, num_queries = sets.bboxes.shape[1:3]
        roots = self.loss_ddf.roots(len(union), batch_size, num_queries)
        return UnionAssignment(matches, union, num_cls, num_box, roots)

    def assign_denoising(
        self,
        denoising: DenoisingQueries,
        assignment: UnionAssignment,
    ) -> UnionAssignment:
        known = super().assign_denoising(denoising, assignment)
        return UnionAssignment(known.cls, known.box, known.num_cls, known.num_box, assignment.roots)

    def box_terms(
        self, sets: PredictionSets, targets: BatchTargets, assignment: UnionAssignment
    ) -> Dict[str, Tensor]:
        """L1 and IoU of all sets, (S,); FGL of all layers, (L,); DDF of the first L - 1."""
        terms = super().box_terms(sets, targets, assignment)
        pairs = assignment.box
        gt_bboxes = targets.boxes[pairs.target_index]  # (P, 4)
        layer_bboxes = pairs.gather(sets.bboxes[-len(sets.corners) :].detach())  # (L, P, 4)
        ious = aligned_iou(cxcywh_to_xyxy(layer_bboxes), cxcywh_to_xyxy(gt_bboxes))
        # every layer measures from the same box, so the target bins are the same for all
        references = sets.references[pairs.batch_index, pairs.query_index]
        bins = boxes_to_bins(references, gt_bboxes, self.bin_values, self.reg_scale)
        terms['loss_fgl'] = self.loss_fgl(
            pairs.gather(sets.corners), bins, ious, assignment.num_box
        )
        terms['loss_ddf'] = self.loss_ddf(
            sets.corners, sets.cls_scores[-1], pairs, ious, assignment.roots
        )
        return terms

    def set_names(self, num_sets: int) -> List[str]:
        return ['enc_', 'pre.', *(f'd{i}.' for i in range(num_sets - 3)), '']

    def name_terms(self, terms: Dict[str, Tensor], names: List[str]) -> Dict[str, Tensor]:
        # the distillation has no value for the last layer, which teaches
        ddf = {'loss_ddf': terms.pop('loss_ddf')}
        return {**super().name_terms(terms, names), **super().name_terms(ddf, names[:-1])}
