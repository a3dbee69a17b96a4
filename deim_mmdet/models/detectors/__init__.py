# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .deyo import DEYO
from .dfine import DFINE
from .rtdetr import RTDETR
from .yolov8 import YOLOv8

__all__ = ['DEYO', 'DFINE', 'RTDETR', 'YOLOv8']
