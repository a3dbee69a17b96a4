# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .deim_head import DEIMHead
from .denoising_conditional_detr_head import DenoisingConditionalDETRHead
from .denoising_deformable_detr_head import DenoisingDeformableDETRHead
from .denoising_head_mixin import DenoisingHeadMixin
from .deyo_head import DEYOHead
from .dfine_head import DFINEHead
from .dn_deformable_detr_head import DNDeformableDETRHead
from .dn_detr_head import DNDETRHead
from .quality_ddq_detr_head import QualityDDQDETRHead
from .rtdetr_head import RTDETRHead
from .yolov8_head import YOLOv8Head

__all__ = [
    'DEIMHead',
    'DEYOHead',
    'DFINEHead',
    'DNDETRHead',
    'DNDeformableDETRHead',
    'DenoisingConditionalDETRHead',
    'DenoisingDeformableDETRHead',
    'DenoisingHeadMixin',
    'QualityDDQDETRHead',
    'RTDETRHead',
    'YOLOv8Head',
]
