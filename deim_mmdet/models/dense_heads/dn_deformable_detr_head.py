# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Tuple

from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.layers.transformer import inverse_sigmoid
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.layers.dn_deformable_decoder import LOGIT_EPS

from .denoising_head_mixin import DenoisingHeadMixin


@MODELS.register_module()
class DNDeformableDETRHead(DenoisingHeadMixin, DeformableDETRHead):
    """Head of DN-Deformable-DETR: a class and a box branch per layer, and the losses of denoising
    queries.
    """

    def forward(self, hidden_states: Tensor, references: List[Tensor]) -> Tuple[Tensor, Tensor]:
        """As in mmdet, with references bounded as in the decoder.

        Args:
            hidden_states (Tensor): Outputs of the decoder layers, shape (L, bs, N, embed_dims).
            references (list[Tensor]): Boxes before each layer, and after the last, each shape (bs,
                N, 4).

        Returns:
            tuple[Tensor, Tensor]: Class logits, shape (L, bs, N, C), and normalised boxes, shape
            (L, bs, N, 4), ordered (cx, cy, w, h).
        """
        bounded = [inverse_sigmoid(boxes, LOGIT_EPS).sigmoid() for boxes in references]
        return super().forward(hidden_states, bounded)

    def loss(self, *args, **kwargs) -> Dict[str, Tensor]:
        """As :meth:`DenoisingHeadMixin.loss`; the encoder proposes nothing."""
        return super().loss(*args, enc_outputs_class=None, enc_outputs_coord=None, **kwargs)
