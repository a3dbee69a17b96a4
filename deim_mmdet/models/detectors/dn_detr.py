# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict

from mmdet.models.detectors import DABDETR
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries

from .denoising_mixin import DenoisingMixin


@MODELS.register_module()
class DNDETR(DenoisingMixin, DABDETR):
    """`DN-DETR <https://arxiv.org/abs/2203.01305>`_: DAB-DETR with denoising queries.

    An anchor of a normal query is learnt, that of a denoising query is the noisy box.

    Args:
        args, kwargs: Arguments of mmdet's ``DABDETR``, and ``denoising`` of
            :class:`DenoisingMixin`.
    """

    def denoising_inputs(self, denoising: DenoisingQueries) -> Dict[str, Tensor]:
        # DAB-DETR calls the logits of its anchors query_pos
        return dict(query=denoising.content, query_pos=denoising.references)
