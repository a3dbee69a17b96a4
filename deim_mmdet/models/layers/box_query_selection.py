# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn as nn
from mmengine.model import BaseModule, bias_init_with_prob
from torch import Tensor

from .query_selection import SelectedQueries, take


class BoxQuerySelection(BaseModule):
    """Picks the tokens that become queries where every token has a box already (DEYO).

    Differs from :class:`QuerySelection`: it predicts no boxes, and no token is left out, since
    there are no anchors whose logits could be infinite.

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Channels of the tokens.
        num_queries (int): Number of queries N.
    """

    def __init__(self, num_classes: int, embed_dims: int, num_queries: int = 300):
        super().__init__()
        self.num_queries = num_queries
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)
        self.cls_branch = nn.Linear(embed_dims, num_classes)

    def init_weights(self):
        super().init_weights()
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.constant_(self.cls_branch.bias, bias_init_with_prob(0.01))

    def forward(self, memory: Tensor, bboxes: Tensor) -> SelectedQueries:
        """Score every token, keep the best and their boxes.

        Args:
            memory (Tensor): Tokens, shape (bs, T, embed_dims).
            bboxes (Tensor): Normalised box of each token, shape (bs, T, 4), ordered (cx, cy, w, h),
                float32; it may reach beyond the image.

        Returns:
            SelectedQueries: N queries per image, or all tokens if there are fewer. Its
            ``references`` are boxes, not logits; its ``bboxes`` are the same with their gradient,
            which trains what they come from.
        """
        tokens = self.norm(self.proj(memory))
        scores = self.cls_branch(tokens)  # (bs, T, C)
        num_queries = min(self.num_queries, scores.shape[1])
        index = scores.max(-1).values.topk(num_queries, dim=1).indices
        bboxes = take(bboxes, index)
        return SelectedQueries(
            content=take(tokens, index).detach(),
            references=bboxes.detach(),
            cls_scores=take(scores, index),
            bboxes=bboxes,
            index=index,
        )
