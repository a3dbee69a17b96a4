# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.models.layers.transformer import coordinate_to_encoding
from torch import Tensor

from .mlp import MLP


class BoxPositionMLP(MLP):
    """Query position of a box: two linear layers on the sine encoding of its four numbers.

    Args:
        embed_dims (int): Width of the positions.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__(2 * embed_dims, embed_dims, embed_dims, num_layers=2)
        self.num_feats = embed_dims // 2

    def forward(self, boxes: Tensor) -> Tensor:
        """Normalised boxes (bs, N, 4), ordered (cx, cy, w, h) -> (bs, N, embed_dims)."""
        return super().forward(coordinate_to_encoding(boxes, self.num_feats))
