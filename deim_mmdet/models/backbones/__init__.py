# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .hgnetv2 import HGNetv2

__all__ = ['HGNetv2']
