# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Attention in fewer and standard operators."""

import math
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor

from deim_mmdet.ops.deformable_attention import deformable_sampling, split_levels


def use_plain_attention(module: nn.Module) -> None:
    """Replace every attention below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.MultiheadAttention):
            setattr(module, name, PlainAttention(child))
        elif isinstance(child, MultiScaleDeformableAttention):
            setattr(module, name, PlainDeformableAttention(child))
        else:
            use_plain_attention(child)


class PlainAttention(nn.Module):
    """Attention as :class:`torch.nn.MultiheadAttention` computes it, in a third of the operators;
    it takes the same calls.

    Args:
        attention (nn.MultiheadAttention): Whose weights it takes. The scale of the products becomes
            part of those of the queries.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.batch_first = attention.batch_first
        dims = attention.embed_dim
        weights = attention.in_proj_weight.detach().split(dims)
        biases = attention.in_proj_bias.detach().split(dims)
        scale = 1 / math.sqrt(dims // attention.num_heads)
        self.query_key_proj = _linear(
            torch.cat([weights[0] * scale, weights[1]]), torch.cat([biases[0] * scale, biases[1]])
        )
        self.value_proj = _linear(weights[2], biases[2])
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        need_weights: bool = False,
    ) -> Tuple[Tensor, None]:
        """Shapes: (bs, N, dims) for queries, (bs, M, dims) for keys and values; with the first two
        dimensions in the order of the attention that is replaced.
        """
        if attn_mask is not None or key_padding_mask is not None or need_weights:
            raise ValueError('an exported attention has no masks and returns no weights')
        if query is key:
            # one product for both, (bs, N, 2 * dims)
            q, k = self.heads(self.query_key_proj(query), 2 * self.num_heads).chunk(2, dim=1)
        else:
            weights, biases = self.query_key_proj.weight, self.query_key_proj.bias
            weights, biases = weights.chunk(2), biases.chunk(2)
            q = self.heads(F.linear(query, weights[0], biases[0]))
            k = self.heads(F.linear(key, weights[1], biases[1]))
        v = self.heads(self.value_proj(value))
        out = (q @ k.transpose(2, 3)).softmax(-1) @ v  # (bs, heads, N, head_dims)
        out = out.transpose(1, 2) if self.batch_first else out.permute(2, 0, 1, 3)
        return self.out_proj(out.flatten(2)), None

    def heads(self, x: Tensor, num_heads: Optional[int] = None) -> Tensor:
        """(bs, N, dims), or (N, bs, dims), to (bs, heads, N, head_dims)."""
        x = x.unflatten(-1, (num_heads or self.num_heads, -1))
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)


class PlainDeformableAttention(nn.Module):
    """mmcv's multi-scale deformable attention by ``grid_sample``; it takes the same calls.

    Locations, and the maps that are sampled, are in single precision.

    Args:
        attention (MultiScaleDeformableAttention): Whose projections it takes.
    """

    def __init__(self, attention: MultiScaleDeformableAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.num_levels = attention.num_levels
        self.num_points = attention.num_points
        self.sampling_offsets = attention.sampling_offsets
        self.attention_weights = attention.attention_weights
        self.value_proj = attention.value_proj
        self.output_proj = attention.output_proj

    def forward(
        self,
        query: Tensor,
        value: Optional[Tensor] = None,
        query_pos: Optional[Tensor] = None,
        reference_points: Optional[Tensor] = None,
        spatial_shapes: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        **kwargs,
    ) -> Tensor:
        """Shapes as in mmcv, the batch first: query (bs, N, dims), value (bs, sum of H*W, dims),
        reference_points (bs, N, levels, 2 or 4), spatial_shapes (levels, 2), ordered (H, W).
        """
        if key_padding_mask is not None:
            raise ValueError('an exported attention has no masks')
        identity, value = query, query if value is None else value
        if query_pos is not None:
            query = query + query_pos
        heads = (*query.shape[:2], self.num_heads)
        offsets = self.sampling_offsets(query).view(*heads, self.num_levels, self.num_points, 2)
        weights = self.attention_weights(query).view(*heads, -1).softmax(-1)
        reference = reference_points[:, :, None, :, None].float()  # (bs, N, 1, levels, 1, 2 or 4)
        if reference.shape[-1] == 4:
            step = reference[..., 2:] * (0.5 / self.num_points)
        else:
            step = 1 / spatial_shapes.flip(-1)[:, None].float()  # (levels, 1, 2)
        locations = (reference[..., :2] + offsets * step).flatten(3, 4)
        shapes = [tuple(shape) for shape in spatial_shapes]
        levels = split_levels(self.value_proj(value), self.num_heads, shapes)
        points = [self.num_points] * self.num_levels
        sampled = deformable_sampling(levels, locations, weights, points)
        return self.output_proj(sampled.to(query.dtype)) + identity


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], device='meta')
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
