# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.models.dense_heads import ConditionalDETRHead
from mmdet.registry import MODELS

from .denoising_head_mixin import DenoisingHeadMixin


@MODELS.register_module()
class DenoisingConditionalDETRHead(DenoisingHeadMixin, ConditionalDETRHead):
    """Head of Conditional-DETR, with the losses of denoising queries."""
