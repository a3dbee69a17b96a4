# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dc5_resnet import DC5ResNet
from .hgnetv2 import HGNetv2
from .presnet import PResNet
from .yolov8_backbone import YOLOv8Backbone

__all__ = ['DC5ResNet', 'HGNetv2', 'PResNet', 'YOLOv8Backbone']
