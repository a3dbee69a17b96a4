# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict

from mmdet.models.detectors import ConditionalDETR
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.layers.box_position_mlp import BoxPositionMLP
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries

from .denoising_mixin import DenoisingMixin


@MODELS.register_module()
class DenoisingConditionalDETR(DenoisingMixin, ConditionalDETR):
    """Conditional DETR with denoising queries (`DN-DETR <https://arxiv.org/abs/2203.01305>`_).

    Its queries have no box. An MLP turns the noisy box into a query position, from which the
    decoder predicts the reference point, as it does from the learnt positions of normal queries.

    Args:
        args, kwargs: Arguments of mmdet's ``ConditionalDETR``, and ``denoising`` of
            :class:`DenoisingMixin`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.denoising is not None:
            self.box_position = BoxPositionMLP(self.embed_dims)

    def denoising_inputs(self, denoising: DenoisingQueries) -> Dict[str, Tensor]:
        return dict(
            query=denoising.content, query_pos=self.box_position(denoising.references.sigmoid())
        )
