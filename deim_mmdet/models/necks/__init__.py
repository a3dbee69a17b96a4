# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .hybrid_encoder import HybridEncoder
from .yolov8_pafpn import YOLOv8PAFPN

__all__ = ['HybridEncoder', 'YOLOv8PAFPN']
