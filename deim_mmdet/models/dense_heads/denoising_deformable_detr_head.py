# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.registry import MODELS

from .denoising_head_mixin import DenoisingHeadMixin


@MODELS.register_module()
class DenoisingDeformableDETRHead(DenoisingHeadMixin, DeformableDETRHead):
    """Head of Deformable-DETR, with the losses of denoising queries."""
