# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The decoder of RT-DETR (arXiv 2304.08069) and RT-DETRv2 (arXiv 2407.17140).

Differs from the published implementation: the number of images, the input size and its aspect are
read from the tensors; discrete sampling stays inside the map on rectangles.
"""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.models.layers.deformable_decoder import (
    DecoderLayer,
    DeformableDecoder,
    refine_boxes,
)
from deim_mmdet.models.layers.multi_point_attention import DeformableAttention
from deim_mmdet.models.layers.prediction_sets import PredictionSets


@MODELS.register_module()
class RTDETRDecoder(DeformableDecoder):
    """Decoder layers that refine boxes in logit space: L sets of predictions in training.

    RT-DETR and RT-DETRv2 are the same network; in RT-DETRv2 levels may have different numbers of
    points, and sampling may be discrete.

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Channels of queries and memory. Defaults to 256.
        num_layers (int): Decoder layers L. Defaults to 6.
        num_heads (int): Attention heads. Defaults to 8.
        ffn_channels (int): Hidden channels of the feed-forward part. Defaults to 1024.
        points_per_level (Sequence[int]): Sampling points of each level, fine to coarse. Defaults
            to (4, 4, 4).
        sampling (str): 'bilinear', or 'discrete': the nearest cell, for devices without
            ``grid_sample``; offsets are then not trained, so start from a bilinear model. Defaults
            to 'bilinear'.
        eval_layer (int): Layer whose predictions are used, from the end if negative. The layers
            behind it are trained, which helps those before, and neither run in evaluation nor are
            part of the deploy form. Defaults to -1.
        query_pos_dims (Sequence[int]): Hidden channels of the MLP that turns a box into a query
            position: (512,), or (256, 256) in DEIM. Defaults to (512,).
        dropout (float): Dropout probability. Defaults to 0.0.
        act (str): Activation of the feed-forward part and of the MLPs. Defaults to 'relu'.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``, unknown ``sampling``, or
            ``eval_layer`` out of range.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_channels: int = 1024,
        points_per_level: Sequence[int] = (4, 4, 4),
        sampling: str = 'bilinear',
        eval_layer: int = -1,
        query_pos_dims: Sequence[int] = (512,),
        dropout: float = 0.0,
        act: str = 'relu',
        init_cfg: Optional[dict] = None,
    ):
        layers = [
            RTDETRDecoderLayer(
                embed_dims, num_heads, ffn_channels, points_per_level, sampling, dropout, act
            )
            for _ in range(num_layers)
        ]
        super().__init__(
            layers,
            num_classes,
            embed_dims,
            box_dims=4,
            eval_layer=eval_layer,
            query_pos_dims=query_pos_dims,
            act=act,
            init_cfg=init_cfg,
        )

    def forward(
        self,
        content: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[Tuple[int, int]],
        attn_mask: Optional[Tensor] = None,
    ) -> PredictionSets:
        output, boxes = content, self.initial_boxes(references)
        previous = boxes  # the same boxes with their gradient
        all_scores, all_boxes = [], []

        for i, layer in enumerate(self.layers_to_run()):
            query_pos = self.query_pos_mlp(boxes)
            value_levels = layer.cross_attn.value_levels(memory, spatial_shapes)
            output = layer(output, query_pos, boxes, value_levels, attn_mask)

            deltas = self.reg_branches[i](output)
            refined = refine_boxes(boxes, deltas)
            if self.is_predicting(i):
                all_scores.append(self.cls_branches[i](output))
                # NOTE look forward twice (DINO): the loss of a layer's box also reaches the layer
                # before, through the box it started from
                all_boxes.append(refine_boxes(previous, deltas) if self.training else refined)
            previous, boxes = refined, refined.detach()

        return PredictionSets(cls_scores=torch.stack(all_scores), bboxes=torch.stack(all_boxes))

    def initial_boxes(self, references: Tensor) -> Tensor:
        """Normalised boxes that the first layer refines, shape (bs, N, 4)."""
        return references.sigmoid()


class RTDETRDecoderLayer(DecoderLayer):
    """Self-attention, deformable cross-attention, feed-forward, each with residual and norm."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        ffn_channels: int,
        points_per_level: Sequence[int],
        sampling: str,
        dropout: float,
        act: str,
    ):
        super().__init__(embed_dims, num_heads, ffn_channels, dropout, act)
        self.cross_attn = DeformableAttention(embed_dims, num_heads, points_per_level, sampling)
        self.norm2 = nn.LayerNorm(embed_dims)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        boxes: Tensor,
        value_levels: Sequence[Tensor],
        attn_mask: Optional[Tensor],
    ) -> Tensor:
        """Shapes: ``query`` and ``query_pos`` (bs, N, embed_dims), ``boxes`` (bs, N, 4)."""
        query = self.attend_to_queries(query, query_pos, attn_mask)
        sampled = self.cross_attn(query + query_pos, boxes, value_levels)
        query = self.norm2(query + self.dropout(sampled))
        return self.norm3(query + self.dropout(self.ffn(query)))
