# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dfine import DFINE
from .rtdetr import RTDETR
from .yolov8 import YOLOv8

__all__ = ['DFINE', 'RTDETR', 'YOLOv8']
