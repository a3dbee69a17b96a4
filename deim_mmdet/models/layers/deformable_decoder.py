# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the decoders of RT-DETR and D-FINE share."""

from typing import List, Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.model import BaseModule, ModuleList, bias_init_with_prob
from torch import Tensor

from deim_mmdet.models.layers.mlp import MLP, build_activation
from deim_mmdet.models.layers.prediction_sets import PredictionSets

# Keeps the logits of boxes that reach the border of the image finite.
REFERENCE_EPS = 1e-5


class DeformableDecoder(BaseModule):
    """Decoder layers and their prediction branches; a subclass says how boxes are refined.

    In training every layer runs and is supervised; in evaluation the layers behind ``eval_layer``
    do not run.

    Args:
        layers (Sequence[DecoderLayer]): The layers.
        num_classes (int): Number of classes C.
        embed_dims (int): Channels of queries and memory.
        box_dims (int): Outputs of the box branch of a layer.
        eval_layer (int): Layer whose predictions are used, from the end if negative.
        query_pos_dims (Sequence[int]): Hidden channels of the MLP that turns a box into a query
            position.
        act (str): Activation of the MLPs.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: ``eval_layer`` out of range.
    """

    def __init__(
        self,
        layers: Sequence['DecoderLayer'],
        num_classes: int,
        embed_dims: int,
        box_dims: int,
        eval_layer: int,
        query_pos_dims: Sequence[int],
        act: str,
        init_cfg: Optional[dict] = None,
    ):
        super().__init__(init_cfg)
        num_layers = len(layers)
        if not -num_layers <= eval_layer < num_layers:
            raise ValueError(
                f'eval_layer must name one of {num_layers} layers, from {-num_layers} to '
                f'{num_layers - 1}, got {eval_layer}'
            )
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.eval_layer = eval_layer % num_layers
        self.layers = ModuleList(layers)  # PyTorch's would keep init_weights from the layers
        self.query_pos_mlp = MLP(4, query_pos_dims, embed_dims, act=act)
        self.cls_branches = nn.ModuleList(
            nn.Linear(embed_dims, num_classes) for _ in range(num_layers)
        )
        self.reg_branches = nn.ModuleList(
            MLP(embed_dims, embed_dims, box_dims, num_layers=3, act=act) for _ in range(num_layers)
        )

    def init_weights(self):
        super().init_weights()
        for layer in self.query_pos_mlp.layers[:2]:
            nn.init.xavier_uniform_(layer.weight)
        for cls_branch, reg_branch in zip(self.cls_branches, self.reg_branches):
            nn.init.constant_(cls_branch.bias, bias_init_with_prob(0.01))
            reg_branch.zero_last_layer()

    def forward(
        self,
        content: Tensor,
        references: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[Tuple[int, int]],
        attn_mask: Optional[Tensor] = None,
    ) -> PredictionSets:
        """Refine the queries.

        Args:
            content (Tensor): Query content, shape (bs, N, embed_dims).
            references (Tensor): Box logits, shape (bs, N, 4), ordered (cx, cy, w, h).
            memory (Tensor): Encoder tokens, shape (bs, sum of H*W, embed_dims).
            spatial_shapes (Sequence[tuple[int, int]]): (H, W) of every level.
            attn_mask (Tensor, optional): Bool, shape (N, N), True where a query may not attend.

        Returns:
            PredictionSets: In training every set, the last layer's last; otherwise that of
            ``eval_layer`` alone.
        """
        raise NotImplementedError

    def layers_to_run(self) -> List['DecoderLayer']:
        """All layers in training, those up to ``eval_layer`` otherwise."""
        return list(self.layers if self.training else self.layers[: self.eval_layer + 1])

    def is_predicting(self, layer: int) -> bool:
        """Whether anyone looks at the predictions of the layer in this mode."""
        return self.training or layer == self.eval_layer

    def switch_to_deploy(self):
        """Drop the layers that evaluation does not run."""
        for modules in (self.layers, self.cls_branches, self.reg_branches):
            del modules[self.eval_layer + 1 :]


class DecoderLayer(BaseModule):
    """Self-attention and feed-forward; a subclass adds cross-attention between them.

    Args:
        embed_dims (int): Channels, a multiple of ``num_heads``.
        num_heads (int): Attention heads.
        ffn_channels (int): Hidden channels of the feed-forward part.
        dropout (float): Dropout probability.
        act (str): Activation of the feed-forward part.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, ffn_channels: int, dropout: float, act: str
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f'embed_dims must be a multiple of num_heads, got {embed_dims} and {num_heads}'
            )
        self.self_attn = nn.MultiheadAttention(
            embed_dims, num_heads, dropout=dropout, batch_first=True
        )
        self.norm1 = nn.LayerNorm(embed_dims)
        self.ffn = FFN(embed_dims, ffn_channels, dropout, act)
        self.norm3 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

    def attend_to_queries(
        self, query: Tensor, query_pos: Tensor, attn_mask: Optional[Tensor]
    ) -> Tensor:
        """Self-attention with residual and norm.

        Args:
            query (Tensor): Shape (bs, N, embed_dims).
            query_pos (Tensor): Added to queries and keys, shape (bs, N, embed_dims).
            attn_mask (Tensor, optional): Bool, shape (N, N), True where a query may not attend.

        Returns:
            Tensor: Shape (bs, N, embed_dims).
        """
        q = query + query_pos
        attended = self.self_attn(q, q, value=query, attn_mask=attn_mask, need_weights=False)[0]
        return self.norm1(query + self.dropout(attended))


class FFN(BaseModule):
    """Two linear layers, activation and dropout between them; the residual is the caller's."""

    def __init__(self, embed_dims: int, hidden_dims: int, dropout: float, act: str):
        super().__init__()
        self.linear1 = nn.Linear(embed_dims, hidden_dims)
        self.act = build_activation(act)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(hidden_dims, embed_dims)

    def init_weights(self):
        super().init_weights()
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (bs, N, embed_dims), unchanged."""
        return self.linear2(self.dropout(self.act(self.linear1(x))))


def refine_boxes(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Move boxes in logit space.

    Args:
        boxes (Tensor): Normalised boxes, shape (..., 4), ordered (cx, cy, w, h), each in [0, 1].
        deltas (Tensor): Added to their logits, shape (..., 4); taken in single precision.

    Returns:
        Tensor: Normalised boxes, shape (..., 4), ordered (cx, cy, w, h), each in (0, 1).
    """
    # NOTE not logit(eps), which is three ONNX nodes more
    logits = boxes.clamp(REFERENCE_EPS, 1 - REFERENCE_EPS).logit()
    return (deltas.float() + logits).sigmoid()
