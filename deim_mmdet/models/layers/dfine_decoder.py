# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The D-FINE decoder: boxes as four edge distributions, refined layer by layer (arXiv 2410.13842).

Differs from the published implementation: predictions of all layers come stacked, the number of
images, the input size and its aspect are read from the tensors.
"""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from deim_mmdet.models.layers.deformable_decoder import (
    DecoderLayer,
    DeformableDecoder,
    refine_boxes,
)
from deim_mmdet.models.layers.mlp import MLP
from deim_mmdet.models.layers.multi_point_attention import MultiPointAttention
from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.ops.deformable_attention import split_levels
from deim_mmdet.ops.edge_distances import distances_to_boxes, integral, weighting_function

# Keeps activations inside half precision's range.
HALF_MAX = 65504.0
# Query positions of boxes near the border would otherwise dominate their content.
MAX_QUERY_POSITION = 10.0


@MODELS.register_module()
class DFINEDecoder(DeformableDecoder):
    """Decoder layers that refine edge distributions: L + 1 sets of predictions in training, the
    initial box first.

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Channels of queries and memory.
        num_layers (int): Decoder layers L.
        num_heads (int): Attention heads.
        ffn_channels (int): Hidden channels of the feed-forward part.
        points_per_level (Sequence[int]): Sampling points of each level, fine to coarse.
        reg_max (int): An edge distribution has ``reg_max + 1`` bins.
        reg_scale (float): Curvature of the weighting function W(n) and unit of the distances.
        up (float): Upper bound of W(n) relative to ``reg_scale``.
        eval_layer (int): Layer whose predictions are used, from the end if negative.
        dropout (float): Dropout probability.
        act (str): Activation of the feed-forward part and of the small MLPs.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_channels: int = 1024,
        points_per_level: Sequence[int] = (3, 6, 3),
        reg_max: int = 32,
        reg_scale: float = 4.0,
        up: float = 0.5,
        eval_layer: int = -1,
        dropout: float = 0.0,
        act: str = 'relu',
        init_cfg: Optional[dict] = None,
    ):
        layers = [
            DFINEDecoderLayer(embed_dims, num_heads, ffn_channels, points_per_level, dropout, act)
            for _ in range(num_layers)
        ]
        super().__init__(
            layers,
            num_classes,
            embed_dims,
            box_dims=4 * (reg_max + 1),
            eval_layer=eval_layer,
            query_pos_dims=(2 * embed_dims,),
            act=act,
            init_cfg=init_cfg,
        )
        self.num_heads = num_heads
        self.reg_max = reg_max
        # fixed, yet parameters: they count and are stored as in the published checkpoints
        self.up = nn.Parameter(torch.tensor([float(up)]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([float(reg_scale)]), requires_grad=False)
        self.initial_reg_branch = MLP(embed_dims, embed_dims, 4, num_layers=3, act=act)
        self.quality_branches = ModuleList(LocationQuality(act=act) for _ in range(num_layers))
        self.distance_unit = float(reg_scale)  # on the host
        bins = weighting_function(reg_max, up, reg_scale)
        self.register_buffer('bin_values', bins, persistent=False)

    def init_weights(self):
        super().init_weights()
        self.initial_reg_branch.zero_last_layer()

    def forward(
        self,
        content: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[Tuple[int, int]],
        attn_mask: Optional[Tensor] = None,
    ) -> PredictionSets:
        value_levels = split_levels(memory, self.num_heads, spatial_shapes)
        output, previous_output, corners = content, 0, 0
        boxes = references.sigmoid()
        sets = []

        for i, layer in enumerate(self.layers_to_run()):
            query_pos = self.query_pos_mlp(boxes).clamp(-MAX_QUERY_POSITION, MAX_QUERY_POSITION)
            output = layer(output, query_pos, boxes, value_levels, attn_mask)

            if i == 0:
                start = refine_boxes(boxes, self.initial_reg_branch(output))
                initial = start.detach()  # every layer measures its distances from this box
            # NOTE the sum over layers keeps its gradient, the previous output does not
            corners = self.reg_branches[i](output + previous_output).float() + corners
            distances = integral(corners, self.bin_values)
            boxes = distances_to_boxes(initial, distances, self.distance_unit)

            if self.is_predicting(i):
                scores = self.cls_branches[i](output)
                if i == 0 and self.training:
                    # the initial box shares the first layer's classifier, without the quality term
                    sets.append((scores, start, None))
                scores = scores + self.quality_branches[i](corners)
                sets.append((scores, boxes, corners))
            boxes = boxes.detach()
            previous_output = output.detach()

        return PredictionSets(
            cls_scores=torch.stack([scores for scores, _, _ in sets]),
            bboxes=torch.stack([bboxes for _, bboxes, _ in sets]),
            corners=torch.stack([corners for _, _, corners in sets if corners is not None]),
            references=initial,
        )

    def switch_to_deploy(self):
        """Drop what only training looks at: the class logits of all layers but one, too."""
        super().switch_to_deploy()
        del self.quality_branches[self.eval_layer + 1 :]
        for branches in (self.cls_branches, self.quality_branches):
            for i in range(self.eval_layer):
                branches[i] = nn.Identity()


class DFINEDecoderLayer(DecoderLayer):
    """Self-attention, deformable cross-attention behind a gate, feed-forward."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        ffn_channels: int,
        points_per_level: Sequence[int],
        dropout: float,
        act: str,
    ):
        super().__init__(embed_dims, num_heads, ffn_channels, dropout, act)
        self.cross_attn = MultiPointAttention(embed_dims, num_heads, points_per_level)
        self.gateway = Gateway(embed_dims)

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
        # NOTE a gate takes the place of the residual and norm around cross-attention
        sampled = self.cross_attn(query + query_pos, boxes, value_levels)
        query = self.gateway(query, self.dropout(sampled))
        query = query + self.dropout(self.ffn(query))
        return self.norm3(query.clamp(-HALF_MAX, HALF_MAX))


class Gateway(BaseModule):
    """Mixes what a query was with what it sampled, channel by channel."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.gate = nn.Linear(2 * embed_dims, 2 * embed_dims)
        self.norm = nn.LayerNorm(embed_dims)

    def init_weights(self):
        super().init_weights()
        nn.init.zeros_(self.gate.weight)  # both halves start with weight sigmoid(0) = 0.5
        nn.init.zeros_(self.gate.bias)

    def forward(self, query: Tensor, sampled: Tensor) -> Tensor:
        """Both, and the result, are of shape (bs, N, embed_dims)."""
        keep, add = self.gate(torch.cat([query, sampled], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * query + add * sampled)


class LocationQuality(BaseModule):
    """Quality term of the class logits, read from how peaked the edge distributions are.

    Args:
        num_top (int): Largest probabilities per side that are looked at, with their mean.
        hidden_dims (int): Hidden channels.
        act (str): Activation.
    """

    def __init__(self, num_top: int = 4, hidden_dims: int = 64, act: str = 'relu'):
        super().__init__()
        self.num_top = num_top
        self.mlp = MLP(4 * (num_top + 1), hidden_dims, 1, num_layers=2, act=act)

    def init_weights(self):
        super().init_weights()
        self.mlp.zero_last_layer()

    def forward(self, corners: Tensor) -> Tensor:
        """Corners (bs, N, 4 * (reg_max + 1)) -> quality (bs, N, 1), added to all class logits."""
        probabilities = corners.unflatten(-1, (4, -1)).softmax(-1)
        top = probabilities.topk(self.num_top, dim=-1).values
        return self.mlp(torch.cat([top, top.mean(-1, keepdim=True)], dim=-1).flatten(-2))
