# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Tuple

import torch
from mmdet.models.layers.transformer import DeformableDetrTransformerDecoder, inverse_sigmoid
from torch import Tensor, nn

from .box_position_mlp import BoxPositionMLP
from .mlp import MLP

# Bound of a box, and of one minus a box, before its logit is taken; mmdet's is 1e-5.
LOGIT_EPS = 1e-3


class DNDeformableDecoder(DeformableDetrTransformerDecoder):
    """Decoder of DN-Deformable-DETR: that of Deformable DETR with the anchors of DAB-DETR.

    References are boxes, refined by every layer. The position of a query is made anew before each
    layer, from its box, and scaled from the second layer on by a function of its content.

    Args:
        args, kwargs: Arguments of mmdet's decoder; ``return_intermediate`` must be True.

    Raises:
        ValueError: ``return_intermediate`` is False.
    """

    def _init_layers(self) -> None:
        if not self.return_intermediate:
            raise ValueError(
                'DNDeformableDecoder returns the outputs of all its layers, each is in the loss: '
                f'return_intermediate must be True, got {self.return_intermediate}'
            )
        super()._init_layers()
        self.ref_point_head = BoxPositionMLP(self.embed_dims)
        self.query_scale = MLP(self.embed_dims, self.embed_dims, self.embed_dims, num_layers=2)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList,
        **kwargs,
    ) -> Tuple[Tensor, Tensor]:
        """Refine the references layer by layer.

        Args:
            query (Tensor): Contents, shape (bs, N, embed_dims).
            reference_points (Tensor): Boxes in units of the image without its padding, shape (bs,
                N, 4), ordered (cx, cy, w, h).
            valid_ratios (Tensor): Share of width and height that is image, shape (bs, levels, 2).
            reg_branches (nn.ModuleList): Box branch of each layer.
            kwargs: What else the layers take; ``query_pos`` is not used.

        Returns:
            tuple[Tensor, Tensor]: Contents after each layer, shape (L, bs, N, embed_dims), and the
            boxes that each layer refined, detached, shape (L, bs, N, 4).
        """
        kwargs.pop('query_pos', None)
        ratios = valid_ratios.repeat(1, 1, 2).unsqueeze(1)  # (bs, 1, levels, 4)
        states, references = [], []
        for index, layer in enumerate(self.layers):
            on_levels = reference_points.unsqueeze(2) * ratios  # (bs, N, levels, 4)
            query_pos = self.ref_point_head(on_levels[:, :, 0])
            if index > 0:
                query_pos = query_pos * self.query_scale(query)
            query = layer(
                query,
                query_pos=query_pos,
                reference_points=on_levels,
                valid_ratios=valid_ratios,
                **kwargs,
            )
            offset = reg_branches[index](query)
            logits = offset + inverse_sigmoid(reference_points, LOGIT_EPS)
            reference_points = logits.sigmoid().detach()
            states.append(query)
            references.append(reference_points)
        return torch.stack(states), torch.stack(references)
