# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn as nn
from mmcv.cnn import build_activation_layer
from torch import Tensor

from deim_mmdet.ops.tracing import is_traced


class TransformerEncoder(nn.Module):
    """Transformer layers over the positions of one feature map.

    Args:
        num_layers (int): Number of layers.
        embed_dims (int): Channels, a multiple of 4 and of ``num_heads``.
        num_heads (int): Attention heads.
        ffn_channels (int): Hidden channels of the feed-forward network.
        dropout (float): Dropout rate. Defaults to 0.0.
        act_cfg (dict): Activation of the feed-forward network. Defaults to ``dict(type='GELU')``.
        temperature (float): Temperature of the sine positions. Defaults to 10000.
    """

    def __init__(
        self,
        num_layers: int,
        embed_dims: int,
        num_heads: int,
        ffn_channels: int,
        dropout: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
        temperature: float = 10000.0,
    ) -> None:
        super().__init__()
        self.positions = SinePositions2D(embed_dims, temperature)
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(embed_dims, num_heads, ffn_channels, dropout, act_cfg)
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(bs, embed_dims, H, W), unchanged in shape."""
        height, width = x.shape[-2:]
        if x.requires_grad and x.device.type == 'cpu':
            # PyTorch's batch norm on the CPU computes a wrong gradient from one that is strided
            # like the tokens of a single image
            x.register_hook(Tensor.contiguous)
        positions = self.positions(x)  # (1, H*W, embed_dims)
        tokens = x.flatten(2).permute(0, 2, 1)  # (bs, C, H, W) -> (bs, H*W, C)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.permute(0, 2, 1).reshape(x.shape[0], x.shape[1], height, width)


class TransformerEncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with residual and then norm (post-norm).

    Args:
        embed_dims (int): Channels of a token.
        num_heads (int): Attention heads.
        ffn_channels (int): Hidden channels of the feed-forward network.
        dropout (float): Dropout rate. Defaults to 0.0.
        act_cfg (dict): Activation of the feed-forward network. Defaults to ``dict(type='GELU')``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        ffn_channels: int,
        dropout: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dims, num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.linear1 = nn.Linear(embed_dims, ffn_channels)
        self.act = build_activation_layer(act_cfg)
        self.linear2 = nn.Linear(ffn_channels, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """One layer.

        Args:
            tokens (Tensor): Shape (bs, num_tokens, embed_dims).
            positions (Tensor): Added to queries and keys, shape (1, num_tokens, embed_dims).

        Returns:
            Tensor: Shape (bs, num_tokens, embed_dims).
        """
        query = tokens + positions
        attended = self.self_attn(query, query, tokens, need_weights=False)[0]
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(self.act(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class SinePositions2D(nn.Module):
    """Sine-cosine positions of a feature map of any shape; nothing is learned or stored.

    Channels are ordered (sin y, cos y, sin x, cos x), positions row by row, as the tokens are.

    Differs from the published implementation: that one lays the positions out column by column
    and calls the first half x. For a square map both are the same numbers; for a rectangle the
    published ones belong to other cells.

    Args:
        embed_dims (int): Channels, a multiple of 4.
        temperature (float): Longest wave, in cells over 2 pi. Defaults to 10000.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of 4.
    """

    # multi-scale training has about a dozen shapes; more come from images of free size only
    MAX_CACHED = 32

    def __init__(self, embed_dims: int, temperature: float = 10000.0) -> None:
        super().__init__()
        if embed_dims % 4:
            raise ValueError(
                f'embed_dims = {embed_dims} must be a multiple of 4 for 2-D sine positions: a sine '
                'and a cosine for each axis.'
            )
        self.embed_dims = embed_dims
        self.temperature = temperature
        self._cache = {}

    def forward(self, x: Tensor) -> Tensor:
        """Positions of a feature map.

        Args:
            x (Tensor): Shape (bs, C, H, W); only shape, device and dtype matter.

        Returns:
            Tensor: Shape (1, H*W, embed_dims), each in [-1, 1].
        """
        height, width = x.shape[-2:]
        if is_traced():
            # the shape may be symbolic there: keep the arithmetic in the graph
            return self._compute(height, width, x.device, x.dtype)
        key = (height, width, x.device, x.dtype)
        if key not in self._cache:
            if len(self._cache) >= self.MAX_CACHED:
                self._cache.clear()
            with torch.inference_mode(False):  # or training could not use what testing cached
                self._cache[key] = self._compute(*key)
        return self._cache[key]

    def _compute(self, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        num_waves = self.embed_dims // 4
        waves = torch.arange(num_waves, device=device, dtype=torch.float32) / num_waves
        waves = self.temperature**-waves
        y, x = _angles(height, waves), _angles(width, waves)  # (H, embed_dims/4), (W, ...)
        y = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(-1, width, -1)
        x = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(height, -1, -1)
        # (H, W, embed_dims) -> (1, H*W, embed_dims)
        return torch.cat([y, x], dim=2).flatten(0, 1)[None].to(dtype)


def _angles(length: int, waves: Tensor) -> Tensor:
    cells = torch.arange(length, device=waves.device, dtype=torch.float32)
    return cells[:, None] * waves[None]
