# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .deim_head import DEIMHead
from .deyo_head import DEYOHead
from .dfine_head import DFINEHead
from .quality_ddq_detr_head import QualityDDQDETRHead
from .rtdetr_head import RTDETRHead
from .yolov8_head import YOLOv8Head

__all__ = [
    'DEIMHead',
    'DEYOHead',
    'DFINEHead',
    'QualityDDQDETRHead',
    'RTDETRHead',
    'YOLOv8Head',
]
