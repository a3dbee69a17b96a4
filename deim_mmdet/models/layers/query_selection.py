# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from functools import lru_cache
from typing import NamedTuple, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule, bias_init_with_prob
from torch import Tensor

from deim_mmdet.models.layers.mlp import MLP

# Size of an anchor on the finest level, as a share of the image; twice that on the next, ...
ANCHOR_SIZE = 0.05
# Tokens whose centre is nearer to the border than this take no part in the selection.
BORDER = 0.01


class SelectedQueries(NamedTuple):
    """What query selection hands to the decoder and to the loss.

    Attributes:
        content (Tensor): Detached token features, shape (bs, N, embed_dims).
        references (Tensor): Detached box logits, shape (bs, N, 4), ordered (cx, cy, w, h).
        cls_scores (Tensor): Class logits of the tokens, shape (bs, N, C).
        bboxes (Tensor): Normalised boxes, shape (bs, N, 4), ordered (cx, cy, w, h), each in [0, 1].
        index (Tensor): Selected tokens, best first, shape (bs, N).
    """

    content: Tensor
    references: Tensor
    cls_scores: Tensor
    bboxes: Tensor
    index: Tensor


class QuerySelection(BaseModule):
    """Picks the encoder tokens that become queries, by their highest class score (RT-DETR).

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Channels of the tokens.
        num_queries (int): Number of queries N.
        act (str): Activation of the box branch.
    """

    def __init__(
        self, num_classes: int, embed_dims: int, num_queries: int = 300, act: str = 'relu'
    ):
        super().__init__()
        self.num_queries = num_queries
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)
        self.cls_branch = nn.Linear(embed_dims, num_classes)
        self.reg_branch = MLP(embed_dims, embed_dims, 4, num_layers=3, act=act)

    def init_weights(self):
        super().init_weights()
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.constant_(self.cls_branch.bias, bias_init_with_prob(0.01))
        self.reg_branch.zero_last_layer()

    def forward(self, memory: Tensor, spatial_shapes: Sequence[Tuple[int, int]]) -> SelectedQueries:
        """Score every token, keep the best, predict their boxes.

        Args:
            memory (Tensor): Encoder tokens, shape (bs, sum of H*W, embed_dims).
            spatial_shapes (Sequence[tuple[int, int]]): (H, W) of every level.

        Returns:
            SelectedQueries: N queries per image, or all tokens if there are fewer.
        """
        # while a model is traced shapes are symbols, which no cache must keep
        build = grid_anchors.__wrapped__ if torch.jit.is_tracing() else grid_anchors
        anchors, valid = build(tuple(spatial_shapes), memory.device)
        tokens = self.norm(self.proj(memory * valid.to(memory.dtype)))
        scores = self.cls_branch(tokens)  # (bs, tokens, C)
        num_queries = min(self.num_queries, scores.shape[1])
        index = scores.max(-1).values.topk(num_queries, dim=1).indices

        content = take(tokens, index)
        # in single precision: logits of far anchors need it
        references = self.reg_branch(content).float() + anchors[0][index]
        return SelectedQueries(
            content=content.detach(),
            references=references.detach(),
            cls_scores=take(scores, index),
            bboxes=references.sigmoid(),
            index=index,
        )


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: tokens (bs, T, dims), index (bs, N) -> (bs, N, dims)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


@lru_cache(maxsize=64)
def grid_anchors(
    spatial_shapes: Tuple[Tuple[int, int], ...], device: torch.device
) -> Tuple[Tensor, Tensor]:
    """One anchor per token: the cell's centre, with a size that doubles from level to level.

    The result depends on the shapes alone, so it is cached; do not write into it.

    Args:
        spatial_shapes (tuple[tuple[int, int]]): (H, W) of every level, fine to coarse.
        device (torch.device): Where to put the tensors.

    Returns:
        tuple[Tensor, Tensor]: Anchor logits, shape (1, sum of H*W, 4), ordered (cx, cy, w, h),
        infinite where invalid; validity, bool, shape (1, sum of H*W, 1).
    """
    with torch.inference_mode(False):
        levels = []
        for level, (h, w) in enumerate(spatial_shapes):
            y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
            x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
            cy, cx = torch.meshgrid(y, x, indexing='ij')
            size = torch.full_like(cx, ANCHOR_SIZE * 2**level)
            levels.append(torch.stack([cx, cy, size, size], dim=-1).flatten(0, 1))
        anchors = torch.cat(levels).unsqueeze(0)
        valid = ((anchors > BORDER) & (anchors < 1 - BORDER)).all(-1, keepdim=True)
        logits = torch.log(anchors / (1 - anchors)).masked_fill(~valid, torch.inf)
    return logits, valid
