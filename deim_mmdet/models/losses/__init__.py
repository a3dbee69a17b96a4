# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .complete_iou_loss import CompleteIoULoss, complete_iou_loss
from .decoupled_distillation_focal_loss import DecoupledDistillationFocalLoss
from .fine_grained_localization_loss import FineGrainedLocalizationLoss
from .full_gradient_varifocal_loss import FullGradientVarifocalLoss
from .iou_varifocal_loss import IoUVarifocalLoss
from .matchability_aware_loss import MatchabilityAwareLoss
from .matched_quality_loss import MatchedQualityLoss

__all__ = [
    'CompleteIoULoss',
    'DecoupledDistillationFocalLoss',
    'FineGrainedLocalizationLoss',
    'FullGradientVarifocalLoss',
    'IoUVarifocalLoss',
    'MatchabilityAwareLoss',
    'MatchedQualityLoss',
    'complete_iou_loss',
]
