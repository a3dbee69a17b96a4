# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import Optional, Tuple

import torch
import torch.nn as nn
from torch import Tensor


class PlainAttention(nn.Module):
    """Self-attention as :class:`torch.nn.MultiheadAttention` computes it, in a third of the
    operators; it takes the same calls.

    Args:
        attention (nn.MultiheadAttention): Whose weights it takes. The scale of the products becomes
            part of those of the queries.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
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
        need_weights: bool = False,
    ) -> Tuple[Tensor, None]:
        """Shapes: (bs, N, dims) for all three; queries and keys are the same."""
        if query is not key or attn_mask is not None or need_weights:
            raise ValueError('an exported attention is self-attention without masks')
        # (bs, N, 2 * dims) -> (bs, 2 * heads, N, head_dims)
        qk = self.query_key_proj(query).unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2)
        q, k = qk.split(self.num_heads, dim=1)
        v = self.value_proj(value).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = (q @ k.transpose(2, 3)).softmax(-1) @ v  # (bs, heads, N, head_dims)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Replace every attention below ``module``."""
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, cls(child))
            else:
                cls.replace_in(child)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], device='meta')
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
