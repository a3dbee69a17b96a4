# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .hgnetv2 import HGNetv2
from .presnet import PResNet

__all__ = ['HGNetv2', 'PResNet']
