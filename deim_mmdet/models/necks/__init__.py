# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .hybrid_encoder import HybridEncoder

__all__ = ['HybridEncoder']
