# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable sampling with PyTorch's own ``grid_sample``.

Every level may have its own number of sampling points, which D-FINE needs and mmcv's compiled
operator cannot do. The graph exports to standard ONNX operators.
"""

from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def split_levels(
    memory: Tensor, num_heads: int, spatial_shapes: Sequence[Tuple[int, int]]
) -> List[Tensor]:
    """Cut flattened multi-level features into one map per level, heads moved to the batch
    dimension.

    Args:
        memory (Tensor): Features, shape (bs, sum of H*W, embed_dims), levels concatenated from
            fine to coarse, each in row-major order.
        num_heads (int): Number of attention heads.
        spatial_shapes (Sequence[tuple[int, int]]): (H, W) of every level.

    Returns:
        list[Tensor]: One map per level, shape (bs * num_heads, head_dims, H, W), in single
        precision: half precision could not tell positions inside a cell apart.
    """
    bs, _, embed_dims = memory.shape
    levels = memory.float().transpose(1, 2).split([h * w for h, w in spatial_shapes], dim=-1)
    return [
        level.reshape(bs * num_heads, embed_dims // num_heads, h, w)
        for level, (h, w) in zip(levels, spatial_shapes)
    ]


def deformable_sampling(
    value_levels: Sequence[Tensor],
    locations: Tensor,
    attention_weights: Tensor,
    points_per_level: Sequence[int],
) -> Tensor:
    """Weighted sum of bilinear samples (Deformable DETR, equation 2).

    Args:
        value_levels (Sequence[Tensor]): Output of :func:`split_levels`.
        locations (Tensor): Sampling points, shape (bs, num_queries, num_heads, sum of points, 2),
            ordered (x, y), normalised so that [0, 1] spans the map; points outside read zeros.
        attention_weights (Tensor): Shape (bs, num_queries, num_heads, sum of points), sums to 1
            over the last dimension.
        points_per_level (Sequence[int]): Number of points of each level.

    Returns:
        Tensor: Shape (bs, num_queries, num_heads * head_dims).
    """
    bs, num_queries, num_heads, num_points, _ = locations.shape
    head_dims = value_levels[0].shape[1]
    # (bs, N, heads, points, 2) -> (bs * heads, N, points, 2), in grid_sample's [-1, 1]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    samples = [
        F.grid_sample(value, level_grid, padding_mode='zeros', align_corners=False)
        for value, level_grid in zip(value_levels, grid.split(list(points_per_level), dim=2))
    ]
    samples = torch.cat(samples, dim=-1)  # (bs * heads, head_dims, N, points)
    weights = attention_weights.transpose(1, 2).reshape(bs * num_heads, 1, num_queries, num_points)
    out = (samples * weights).sum(-1)  # (bs * heads, head_dims, N)
    return out.reshape(bs, num_heads * head_dims, num_queries).transpose(1, 2)
