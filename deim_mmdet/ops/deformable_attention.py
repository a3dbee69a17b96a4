# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable sampling with PyTorch's own ``grid_sample``.

Every level may have its own number of sampling points, which D-FINE needs and mmcv's compiled
operator cannot do. The graph exports to standard ONNX operators. Inference on a CPU sums up rows of
channels instead, which takes half the time there with 32 channels to a head.
"""

from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_traced


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
    if value_levels[0].device.type == 'cpu' and not (torch.is_grad_enabled() or is_traced()):
        return sum_of_rows(value_levels, locations, attention_weights, points_per_level)
    # (bs, N, heads, points, 2) -> (bs * heads, N, points, 2), in grid_sample's [-1, 1]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    samples = [
        F.grid_sample(value, level_grid, padding_mode='zeros', align_corners=False)
        for value, level_grid in zip(value_levels, grid.split(list(points_per_level), dim=2))
    ]
    return weighted_sum(samples, attention_weights)


def sum_of_rows(
    value_levels: Sequence[Tensor],
    locations: Tensor,
    attention_weights: Tensor,
    points_per_level: Sequence[int],
) -> Tensor:
    """:func:`deformable_sampling` without ``grid_sample``: the channels of a cell and head are a
    row of a table, and what a query sees is a weighted sum of rows, four for each point.

    Args:
        value_levels, locations, attention_weights, points_per_level: As for
            :func:`deformable_sampling`.

    Returns:
        Tensor: Shape (bs, num_queries, num_heads * head_dims).
    """
    bs, num_queries, num_heads, _ = attention_weights.shape
    per_level = (
        part.split(list(points_per_level), dim=-1)
        for part in (*locations.unbind(-1), attention_weights.float())
    )
    summed = torch.zeros(())
    for value, x, y, weights in zip(value_levels, *per_level):
        h, w = value.shape[-2:]
        # (bs * heads, head_dims, H, W) -> (bs * H * W * heads, head_dims)
        table = value.unflatten(0, (bs, num_heads)).permute(0, 3, 4, 1, 2).flatten(0, 3)
        first_rows = torch.arange(bs).view(-1, 1, 1, 1) * (h * w * num_heads)
        first_rows = first_rows + torch.arange(num_heads).view(-1, 1)
        # (bs, N, heads, points) each
        columns, across = _neighbours(x * w - 0.5, w)
        lines, down = _neighbours(y * h - 0.5, h)
        lines, down = [line * w for line in lines], [share * weights for share in down]
        # (bs, N, heads, 4 * points); cells of points that are not finite have shares that are not
        cells = torch.cat([line + column for line in lines for column in columns], -1)
        shares = torch.cat([a * b for a in down for b in across], -1)
        rows = cells.nan_to_num_(0).long().mul_(num_heads).add_(first_rows)
        summed = summed + F.embedding_bag(
            rows.flatten(0, 2), table, mode='sum', per_sample_weights=shares.flatten(0, 2)
        )
    # (bs * N * heads, head_dims) -> (bs, N, heads * head_dims)
    return summed.view(bs, num_queries, -1)


def _neighbours(position: Tensor, size: int) -> Tuple[List[Tensor], List[Tensor]]:
    """The two cells of an axis that a position lies between, and their shares; 0 outside."""
    near = position.floor()
    far_share = position - near
    cells, shares = [], []
    for cell, share in ((near, 1 - far_share), (near + 1, far_share)):
        cells.append(cell.clamp(0, size - 1))
        shares.append(share * (cells[-1] == cell))
    return cells, shares


def discrete_sampling(
    value_levels: Sequence[Tensor],
    locations: Tensor,
    attention_weights: Tensor,
    points_per_level: Sequence[int],
) -> Tensor:
    """Weighted sum of single cells (RT-DETRv2, arXiv 2407.17140), for devices without
    ``grid_sample``.

    A point at ``p`` of [0, 1] reads cell ``floor(p * size + 0.5)`` of that axis, at most the last.
    So it reads half a cell farther than bilinear sampling looks; published weights depend on it.

    Differs from the published implementation: that one limits both axes to the height.

    Args:
        value_levels, locations, attention_weights, points_per_level: As for
            :func:`deformable_sampling`. Points outside read the cell at the border; locations get
            no gradient.

    Returns:
        Tensor: Shape (bs, num_queries, num_heads * head_dims).
    """
    samples = []
    for value, points in zip(value_levels, locations.split(list(points_per_level), dim=3)):
        h, w = value.shape[-2:]
        x = (points[..., 0] * w + 0.5).floor().long().clamp(0, w - 1)
        y = (points[..., 1] * h + 0.5).floor().long().clamp(0, h - 1)
        # (bs, N, heads, points) -> (bs * heads, N, points)
        cells = (y * w + x).transpose(1, 2).flatten(0, 1)
        index = cells.flatten(1).unsqueeze(1).expand(-1, value.shape[1], -1)
        samples.append(value.flatten(2).gather(2, index).unflatten(2, cells.shape[1:]))
    return weighted_sum(samples, attention_weights)


def weighted_sum(samples: Sequence[Tensor], attention_weights: Tensor) -> Tensor:
    """Sum over the points of all levels.

    Args:
        samples (Sequence[Tensor]): Samples of every level, shape (bs * num_heads, head_dims,
            num_queries, points of the level).
        attention_weights (Tensor): Shape (bs, num_queries, num_heads, sum of points).

    Returns:
        Tensor: Shape (bs, num_queries, num_heads * head_dims).
    """
    bs, num_queries, num_heads, num_points = attention_weights.shape
    samples = torch.cat(list(samples), dim=-1)  # (bs * heads, head_dims, N, points)
    weights = attention_weights.transpose(1, 2).reshape(bs * num_heads, 1, num_queries, num_points)
    out = (samples * weights).sum(-1)  # (bs * heads, head_dims, N)
    return out.reshape(bs, num_heads * out.shape[1], num_queries).transpose(1, 2)
