# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.models.dense_heads import DABDETRHead
from mmdet.registry import MODELS

from .denoising_head_mixin import DenoisingHeadMixin


@MODELS.register_module()
class DNDETRHead(DenoisingHeadMixin, DABDETRHead):
    """Head of `DN-DETR <https://arxiv.org/abs/2203.01305>`_: that of DAB-DETR, with the losses of
    denoising queries.
    """
