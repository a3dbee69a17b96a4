# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .batch_mixup import BatchMixUp
from .batch_random_size import BatchRandomSize, generate_scales

__all__ = ['BatchMixUp', 'BatchRandomSize', 'generate_scales']
