# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import warnings
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.models.layers.transformer import inverse_sigmoid
from mmdet.registry import MODELS
from torch import Tensor

from .contrastive_denoising import DenoisingQueries, group_mask, positive_matches
from .targets import BatchTargets

# Keeps the logits of boxes that reach the border of the image finite.
_LOGIT_EPS = 1e-3
# Last dimension of a query's content: what kind of query it is.
_NORMAL, _DENOISING = 0.0, 1.0


@MODELS.register_module()
class DenoisingQueryGenerator(nn.Module):
    """Denoising queries of `DN-DETR <https://arxiv.org/abs/2203.01305>`_.

    With M the most objects of an image, each group has M slots, one per object; the slot of an
    object is its index + M * group. Slots beyond the objects of an image hold zeros, as content and
    as logits of the box; they stay visible within their group, and are in no loss. A label is
    replaced by a random one, which may be the same, with probability ``label_noise``. The centre of
    a box moves by less than ``box_noise`` times half its size, its size changes by less than
    ``box_noise`` times itself; each number is clipped to [0, 1]. Groups do not see each other, and
    normal queries see none.

    A content has one dimension less than a query: the last one tells denoising queries (1) from
    normal ones (0). Normal queries have the content of row C, "no object", of the table of labels.

    Differs from the published implementation: groups are fewer, at least one, where they would
    make more than ``max_queries`` queries.

    Args:
        num_classes (int): Number of classes C.
        embed_dims (int): Width of the queries, indicator included.
        num_groups (int): Noisy copies of every object. Defaults to 5.
        label_noise (float): Probability of a replaced label, in [0, 1]. Defaults to 0.2.
        box_noise (float): Scale of the noise of boxes, in [0, 1]. Defaults to 0.4.
        max_queries (int): Bound of the denoising queries of an image Nd, unless one group alone is
            larger. Self-attention takes memory of the order (Nd + N)^2. Defaults to 500: five
            groups of 100 objects.

    Raises:
        ValueError: A noise is outside [0, 1]; no group, or no query, is allowed.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        num_groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        max_queries: int = 500,
    ) -> None:
        super().__init__()
        for name, value in (('label_noise', label_noise), ('box_noise', box_noise)):
            if not 0 <= value <= 1:
                raise ValueError(
                    f'{name} must be in [0, 1], got {value}; 0 switches this noise off'
                )
        for name, value in (('num_groups', num_groups), ('max_queries', max_queries)):
            if value < 1:
                raise ValueError(
                    f'{name} must be at least 1, got {value}; '
                    'set denoising=None in the model to train without denoising'
                )
        self.num_classes = num_classes
        self.num_groups = num_groups
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.max_queries = max_queries
        self.label_embedding = nn.Embedding(num_classes + 1, embed_dims - 1)
        self._has_warned = False

    def forward(
        self,
        targets: BatchTargets,
        num_queries: int,
        generator: Optional[torch.Generator] = None,
    ) -> DenoisingQueries:
        """Make the denoising queries of a batch.

        Args:
            targets (BatchTargets): The T objects of the batch.
            num_queries (int): N, the normal queries that follow the denoising ones in the decoder.
            generator (torch.Generator, optional): Source of the noise. Defaults to None: the
                default one of the device.

        Returns:
            DenoisingQueries: Nd = groups * M; 0 if the batch has no object.
        """
        slots = targets.max_count
        num_groups = self.bounded_groups(slots)
        matches = positive_matches(targets, num_groups, slots)
        # objects, group after group: the order of the matches, P = groups * T
        labels = self.add_label_noise(targets.labels.repeat(num_groups), generator)
        boxes = self.add_box_noise(targets.boxes.repeat(num_groups, 1), generator)
        label_content = self.label_embedding(labels)  # (P, embed_dims - 1)

        size = (targets.batch_size, num_groups * slots)
        content = label_content.new_zeros(*size, label_content.shape[1] + 1)
        references = boxes.new_zeros(*size, 4)
        where = matches.batch_index, matches.query_index
        content[where] = F.pad(label_content, (0, 1), value=_DENOISING)
        references[where] = inverse_sigmoid(boxes, _LOGIT_EPS)
        return DenoisingQueries(
            content=content,
            references=references,
            attn_mask=group_mask(num_groups, slots, num_queries, boxes.device),
            matches=matches,
            num_groups=num_groups,
        )

    def normal_content(self) -> Tensor:
        """Content of the normal queries, row C and the indicator; shape (embed_dims,)."""
        return F.pad(self.label_embedding.weight[self.num_classes], (0, 1), value=_NORMAL)

    def bounded_groups(self, slots: int) -> int:
        """How many groups of so many slots are made."""
        if slots == 0:
            return self.num_groups
        most = max(1, self.max_queries // slots)
        if most < self.num_groups and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f'{self.num_groups} denoising groups of {slots} objects are more than max_queries='
                f'{self.max_queries}: batches like this one get {most}. Raise max_queries in '
                'denoising=dict(...) if memory allows, or lower num_groups.'
            )
        return min(self.num_groups, most)

    def add_label_noise(
        self, labels: Tensor, generator: Optional[torch.Generator] = None
    ) -> Tensor:
        """Replace labels by random ones; shape (P,) -> (P,)."""
        options = dict(generator=generator, device=labels.device)
        replaced = torch.rand(labels.shape, **options) < self.label_noise
        return torch.randint(self.num_classes, labels.shape, **options).where(replaced, labels)

    def add_box_noise(self, boxes: Tensor, generator: Optional[torch.Generator] = None) -> Tensor:
        """Move and resize boxes.

        Args:
            boxes (Tensor): Normalised boxes, shape (P, 4), ordered (cx, cy, w, h).
            generator (torch.Generator, optional): Source of the noise.

        Returns:
            Tensor: Shape (P, 4), ordered (cx, cy, w, h), each in [0, 1].
        """
        part = 2 * torch.rand(boxes.shape, generator=generator, device=boxes.device) - 1
        size = boxes[:, 2:]
        reach = torch.cat([0.5 * size, size], dim=1)
        return (boxes + part * reach * self.box_noise).clamp(0, 1)
