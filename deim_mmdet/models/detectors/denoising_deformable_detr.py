# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict

from mmdet.models.detectors import DeformableDETR
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.layers.box_position_mlp import BoxPositionMLP
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries

from .denoising_mixin import DenoisingMixin


@MODELS.register_module()
class DenoisingDeformableDETR(DenoisingMixin, DeformableDETR):
    """Deformable DETR with denoising queries (`DN-DETR <https://arxiv.org/abs/2203.01305>`_).

    With ``as_two_stage=True`` a noisy box is a reference like the boxes that the encoder proposes,
    and gets its position in the same way. Without, references are points: the reference is the
    centre of the noisy box, and an MLP turns the box into a query position.

    :class:`DNDeformableDETR` is the published model, whose references are always boxes.

    Args:
        args, kwargs: Arguments of mmdet's ``DeformableDETR``, and ``denoising`` of
            :class:`DenoisingMixin`.
    """

    self_attn_mask_name = 'self_attn_mask'
    has_content = True  # learnt, or made from a proposal

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.denoising is not None and not self.as_two_stage:
            self.box_position = BoxPositionMLP(self.embed_dims)

    def denoising_inputs(self, denoising: DenoisingQueries) -> Dict[str, Tensor]:
        boxes = denoising.references.sigmoid()
        if self.as_two_stage:
            encoding = self.get_proposal_pos_embed(denoising.references)
            query_pos, _ = self.pos_trans_norm(self.pos_trans_fc(encoding)).chunk(2, dim=2)
            reference_points = boxes
        else:
            query_pos = self.box_position(boxes)
            reference_points = boxes[..., :2]
        return dict(query=denoising.content, query_pos=query_pos, reference_points=reference_points)
