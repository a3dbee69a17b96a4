# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .deyo import DEYO
from .dfine import DFINE
from .dn_detr import DN_DEFORMABLE_DETR, DN_DETR
from .rtdetr import RTDETR, RTDETRV2
from .transformers_dfine import DFINE_TRANSFORMERS
from .transformers_rtdetr import RTDETR_TRANSFORMERS, RTDETRV2_TRANSFORMERS
from .yolov8 import YOLOV8

# Every family whose weights can be converted. Of two that fit, the first is taken.
FAMILIES = (
    DFINE,
    RTDETRV2,
    RTDETR,
    DFINE_TRANSFORMERS,
    RTDETR_TRANSFORMERS,
    RTDETRV2_TRANSFORMERS,
    YOLOV8,
    DEYO,
    DN_DETR,
    DN_DEFORMABLE_DETR,
)
