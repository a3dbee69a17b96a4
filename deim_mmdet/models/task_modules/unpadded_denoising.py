# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from .contrastive_denoising import ContrastiveDenoising


@MODELS.register_module()
class UnpaddedDenoising(ContrastiveDenoising):
    """Contrastive denoising with a row per class and none for padding: DEYO's table of labels.

    Slots beyond the objects of an image hold zeros, what the padding row of the parent holds too.

    Differs from the published implementation, where positives and negatives are laid out so that a
    group attends to others: here a group sees itself and the normal queries, nothing else.

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Width of the query embeddings.
        kwargs: Arguments of :class:`ContrastiveDenoising`.
    """

    def __init__(self, num_classes: int, embed_dims: int, **kwargs) -> None:
        super().__init__(num_classes, embed_dims, **kwargs)
        self.label_embedding = nn.Embedding(num_classes, embed_dims)

    def embed(self, labels: Tensor) -> Tensor:
        # NOTE label C, padding, has no row
        is_class = (labels < self.num_classes).unsqueeze(-1)
        return self.label_embedding(labels.clamp(max=self.num_classes - 1)) * is_class
