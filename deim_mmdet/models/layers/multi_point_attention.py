# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import List, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from deim_mmdet.ops.deformable_attention import (
    deformable_sampling,
    discrete_sampling,
    split_levels,
)

SAMPLINGS = {'bilinear': deformable_sampling, 'discrete': discrete_sampling}
# A sampling offset of 1 (before the division by the number of points) is this share of the box.
OFFSET_SCALE = 0.5


class MultiPointAttention(BaseModule):
    """Deformable cross-attention of D-FINE: no value projection, no output projection.

    Args:
        embed_dims (int): Channels.
        num_heads (int): Attention heads.
        points_per_level (Sequence[int]): Sampling points of each level, fine to coarse.
        sampling (str): 'bilinear', or 'discrete': the nearest cell. Discrete sampling has no
            gradient for the offsets, which are frozen. Defaults to 'bilinear'.

    Raises:
        ValueError: Unknown ``sampling``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        points_per_level: Sequence[int],
        sampling: str = 'bilinear',
    ):
        super().__init__()
        if sampling not in SAMPLINGS:
            raise ValueError(f'sampling must be one of {sorted(SAMPLINGS)}, got {sampling!r}')
        self.sample = SAMPLINGS[sampling]
        self.num_heads = num_heads
        self.points_per_level = tuple(points_per_level)
        num_points = num_heads * sum(points_per_level)
        self.sampling_offsets = nn.Linear(embed_dims, num_points * 2)
        self.attention_weights = nn.Linear(embed_dims, num_points)
        scale = torch.cat([torch.full((n, 1), OFFSET_SCALE / n) for n in self.points_per_level])
        self.register_buffer('offset_scale', scale, persistent=False)
        if sampling == 'discrete':
            self.sampling_offsets.requires_grad_(False)

    def init_weights(self):
        """Points start on rays, one direction per head, farther out with every point of a level."""
        super().init_weights()
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values
        steps = torch.cat([torch.arange(1.0, n + 1) for n in self.points_per_level])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * steps[:, None]).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def forward(self, query: Tensor, references: Tensor, value_levels: Sequence[Tensor]) -> Tensor:
        """Gather features around each query's box.

        Args:
            query (Tensor): Shape (bs, N, embed_dims).
            references (Tensor): Normalised boxes, shape (bs, N, 4), ordered (cx, cy, w, h),
                in [0, 1].
            value_levels (Sequence[Tensor]): Maps made by ``split_levels``, one per level.

        Returns:
            Tensor: Shape (bs, N, embed_dims).
        """
        bs, num_queries, _ = query.shape
        # (bs, N, heads, points of all levels, 2): the softmax runs over all levels together
        offsets = self.sampling_offsets(query).view(bs, num_queries, self.num_heads, -1, 2)
        weights = (
            self.attention_weights(query).view(bs, num_queries, self.num_heads, -1).softmax(-1)
        )
        box = references[:, :, None, None].float()
        locations = box[..., :2] + offsets * self.offset_scale * box[..., 2:]
        sampled = self.sample(value_levels, locations, weights, self.points_per_level)
        return sampled.to(query.dtype)

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fold the scale of the offsets into the layer that predicts them, in place."""
        scale = self.offset_scale.expand(self.num_heads, -1, 2).flatten()
        self.sampling_offsets.weight.mul_(scale[:, None])
        self.sampling_offsets.bias.mul_(scale)
        self.offset_scale.fill_(1.0)


class DeformableAttention(MultiPointAttention):
    """Deformable cross-attention of RT-DETR: values and result are projected.

    Args:
        embed_dims (int): Channels.
        kwargs: Arguments of :class:`MultiPointAttention`.
    """

    def __init__(self, embed_dims: int, *args, **kwargs):
        super().__init__(embed_dims, *args, **kwargs)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)

    def init_weights(self):
        super().init_weights()
        for proj in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(proj.weight)
            nn.init.zeros_(proj.bias)

    def value_levels(
        self, memory: Tensor, spatial_shapes: Sequence[Tuple[int, int]]
    ) -> List[Tensor]:
        """Projected maps to sample from, see :func:`split_levels`."""
        return split_levels(self.value_proj(memory), self.num_heads, spatial_shapes)

    def forward(self, query: Tensor, references: Tensor, value_levels: Sequence[Tensor]) -> Tensor:
        return self.output_proj(super().forward(query, references, value_levels))
