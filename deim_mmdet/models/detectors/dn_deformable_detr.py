# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, Tuple

import torch.nn.functional as F
from mmdet.models.detectors import DeformableDETR
from mmdet.registry import MODELS
from torch import Tensor, nn

from deim_mmdet.models.layers.dn_deformable_decoder import DNDeformableDecoder
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries

from .denoising_mixin import DenoisingMixin


@MODELS.register_module()
class DNDeformableDETR(DenoisingMixin, DeformableDETR):
    """DN-Deformable-DETR of `DN-DETR <https://arxiv.org/abs/2203.01305>`_.

    Deformable DETR whose references are boxes: learnt anchors for normal queries, noisy boxes for
    denoising queries, refined by every layer. Contents of normal queries are learnt, too; the last
    dimension is the indicator, 0, also with ``denoising=None``, so that nothing else changes.

    Args:
        args, kwargs: Arguments of mmdet's ``DeformableDETR``, and ``denoising`` of
            :class:`DenoisingMixin`.
        with_box_refine (bool): Only True is supported. Defaults to True.
        as_two_stage (bool): Only False is supported. Defaults to False.

    Raises:
        ValueError: References are not refined, or come from the encoder.
    """

    self_attn_mask_name = 'self_attn_mask'
    has_content = True

    def __init__(
        self, *args, with_box_refine: bool = True, as_two_stage: bool = False, **kwargs
    ) -> None:
        if not with_box_refine or as_two_stage:
            raise ValueError(
                'DNDeformableDETR has learnt boxes that every layer refines: with_box_refine must '
                f'be True and as_two_stage False, got {with_box_refine} and {as_two_stage}; use '
                'DenoisingDeformableDETR for the other forms'
            )
        super().__init__(*args, with_box_refine=True, as_two_stage=False, **kwargs)

    def _init_layers(self) -> None:
        decoder = self.decoder
        super()._init_layers()
        # NOTE mmdet names the class of its decoder: that one was built for nothing
        self.decoder = DNDeformableDecoder(**decoder)
        self.query_embedding = nn.Embedding(self.num_queries, 4)  # logits of the anchors
        self.content_embedding = nn.Embedding(self.num_queries, self.embed_dims - 1)
        self.reference_points_fc = nn.Identity()  # the anchors are the references

    def pre_decoder(self, memory: Tensor, *args, **kwargs) -> Tuple[Dict, Dict]:
        """Learnt contents and anchors, the same for each image."""
        content = F.pad(self.content_embedding.weight, (0, 1))
        anchors = self.query_embedding.weight.sigmoid()
        batch_size = memory.shape[0]
        decoder_inputs = dict(
            query=content.expand(batch_size, -1, -1),
            query_pos=None,  # made from the references
            reference_points=anchors.expand(batch_size, -1, -1),
            memory=memory,
        )
        return decoder_inputs, {}

    def denoising_inputs(self, denoising: DenoisingQueries) -> Dict[str, Tensor]:
        return dict(query=denoising.content, reference_points=denoising.references.sigmoid())
