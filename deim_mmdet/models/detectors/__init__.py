# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .denoising_conditional_detr import DenoisingConditionalDETR
from .denoising_deformable_detr import DenoisingDeformableDETR
from .denoising_mixin import DenoisingMixin
from .deyo import DEYO
from .dfine import DFINE
from .dn_deformable_detr import DNDeformableDETR
from .dn_detr import DNDETR
from .rtdetr import RTDETR
from .yolov8 import YOLOv8

__all__ = [
    'DEYO',
    'DFINE',
    'DNDETR',
    'DNDeformableDETR',
    'DenoisingConditionalDETR',
    'DenoisingDeformableDETR',
    'DenoisingMixin',
    'RTDETR',
    'YOLOv8',
]
