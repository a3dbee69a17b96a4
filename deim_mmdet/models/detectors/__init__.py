# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dfine import DFINE
from .rtdetr import RTDETR

__all__ = ['DFINE', 'RTDETR']
