# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from deim_mmdet.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

from .matches import Matches
from .targets import BatchTargets

# Keeps the logits of boxes that reach the border of the image finite.
_LOGIT_EPS = 1e-5


@dataclass(frozen=True)
class DenoisingQueries:
    """Noisy copies of the objects, which the decoder has to set right.

    Attributes:
        content (Tensor): Embeddings of the noisy labels, shape (bs, Nd, embed_dims).
        references (Tensor): Logits of the noisy normalised boxes, shape (bs, Nd, 4), ordered
            (cx, cy, w, h).
        attn_mask (Tensor): Whether query i (row) may **not** attend to query j (column), bool,
            shape (Nd + N, Nd + N), the denoising queries first.
        matches (Matches): The positive queries and their objects, shape (P,), P = groups * T.
        num_groups (int): Number of groups, at least 1.
    """

    content: Tensor
    references: Tensor
    attn_mask: Tensor
    matches: Matches
    num_groups: int


@MODELS.register_module()
class ContrastiveDenoising(nn.Module):
    """Contrastive denoising queries of `DINO <https://arxiv.org/abs/2203.03605>`_, RT-DETR's form.

    With M the most objects of an image there are ``max(1, num_queries // M)`` groups. A group is
    [positives | negatives] of M slots each, one per object; slots beyond the objects of an image
    hold the padding label and an empty box, and stay visible within their group. A label is
    replaced by a random one with probability ``label_noise / 2``. Each box corner moves in x and y
    by a random part of half the size: less than ``box_noise`` times that for positives, between one
    and two times for negatives. Groups do not see each other, and normal queries see none.

    Differs from the published implementations: a batch without any object gives Nd = 0 queries in
    place of none, so that the losses have the same keys in every step. Differs from mmdet's
    ``CdnQueryGenerator``: padding slots have an embedding row of their own and a small box instead
    of logits 0.

    Args:
        num_classes (int): Number of classes C; label C is padding.
        embed_dims (int): Width of the query embeddings.
        num_queries (int): Positive queries aimed at per image. Defaults to 100.
        label_noise (float): Twice the probability of a replaced label, in [0, 2]. Defaults to 0.5.
        box_noise (float): Scale of the corner noise. Defaults to 1.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
    ) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(
                f'num_queries must be at least 1, got {num_queries}; '
                'set denoising=None in the model to train without denoising'
            )
        if not 0 <= label_noise <= 2:
            raise ValueError(f'label_noise must be in [0, 2], got {label_noise}')
        if box_noise < 0:
            raise ValueError(f'box_noise must be at least 0, got {box_noise}')
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        # N(0, 1) for the classes and zeros for padding: the default of nn.Embedding
        self.label_embedding = nn.Embedding(num_classes + 1, embed_dims, padding_idx=num_classes)

    def forward(self, targets: BatchTargets, num_queries: int) -> DenoisingQueries:
        """Make the denoising queries of a batch.

        Args:
            targets (BatchTargets): The objects of the batch.
            num_queries (int): N, the normal queries that follow the denoising ones in the decoder.

        Returns:
            DenoisingQueries: Nd = groups * 2 * M; 0 if the batch has no object.
        """
        slots = targets.max_count
        num_groups = max(1, self.num_queries // slots) if slots else 1

        labels, boxes = targets.padded(pad_label=self.num_classes)  # (bs, M), (bs, M, 4)
        labels = self.add_label_noise(labels.repeat(1, 2 * num_groups))  # (bs, Nd)
        is_negative = negative_slots(num_groups, slots, boxes.device)  # (Nd,)
        boxes = self.add_box_noise(boxes.repeat(1, 2 * num_groups, 1), is_negative)

        return DenoisingQueries(
            content=self.embed(labels),
            references=boxes.logit(_LOGIT_EPS),
            attn_mask=group_mask(num_groups, 2 * slots, num_queries, boxes.device),
            matches=positive_matches(targets, num_groups, 2 * slots),
            num_groups=num_groups,
        )

    def embed(self, labels: Tensor) -> Tensor:
        """Content of each slot: labels (bs, Nd) -> (bs, Nd, embed_dims)."""
        return self.label_embedding(labels)

    def add_label_noise(self, labels: Tensor) -> Tensor:
        """Replace labels other than padding by random ones.

        Args:
            labels (Tensor): Shape (bs, Nd), long.

        Returns:
            Tensor: Shape (bs, Nd), long.
        """
        replaced = torch.rand_like(labels, dtype=torch.float32) < 0.5 * self.label_noise
        replaced &= labels != self.num_classes
        return torch.randint_like(labels, 0, self.num_classes).where(replaced, labels)

    def add_box_noise(self, boxes: Tensor, is_negative: Tensor) -> Tensor:
        """Move the corners.

        Args:
            boxes (Tensor): Normalised boxes, shape (bs, Nd, 4), ordered (cx, cy, w, h).
            is_negative (Tensor): Whether to move them further, bool, shape (Nd,).

        Returns:
            Tensor: Boxes within the image, shape (bs, Nd, 4), ordered (cx, cy, w, h).
        """
        corners = cxcywh_to_xyxy(boxes)
        half_size = 0.5 * boxes[..., 2:].repeat(1, 1, 2)
        sign = 2 * torch.randint_like(boxes, 0, 2) - 1
        part = sign * (torch.rand_like(boxes) + is_negative[:, None])
        corners = (corners + part * half_size * self.box_noise).clamp(0, 1)
        # corners that passed each other change places
        return xyxy_to_cxcywh(corners).abs()


def negative_slots(num_groups: int, slots: int, device: torch.device) -> Tensor:
    """Which denoising queries are negatives: the second half of each group; bool, shape (Nd,)."""
    position = torch.arange(num_groups * 2 * slots, device=device) % max(2 * slots, 1)
    return position >= slots


def group_mask(num_groups: int, group_size: int, num_queries: int, device: torch.device) -> Tensor:
    """Who may not attend to whom.

    Args:
        num_groups (int): Number of denoising groups.
        group_size (int): Denoising queries of a group.
        num_queries (int): Normal queries, after the denoising ones.
        device (torch.device): Device of the result.

    Returns:
        Tensor: bool, shape (Nd + N, Nd + N). Row i may attend to column j if j is a normal query or
            both are in one group.
    """
    num_denoising = num_groups * group_size
    position = torch.arange(num_denoising + num_queries, device=device)
    # normal queries make up one more group
    group = (position // max(group_size, 1)).clamp(max=num_groups)
    is_denoising = position < num_denoising
    return (group[:, None] != group) & is_denoising


def positive_matches(targets: BatchTargets, num_groups: int, group_size: int) -> Matches:
    """The positive query of each object in each group, whose first slots are the positives.

    Args:
        targets (BatchTargets): The T objects of the batch.
        num_groups (int): Number of groups.
        group_size (int): Denoising queries of a group.

    Returns:
        Matches: Shape (num_groups * T,), group after group.
    """
    device = targets.boxes.device
    first = torch.arange(num_groups, device=device) * group_size
    query_index = (first[:, None] + targets.slot_index).flatten()  # (groups, T) -> (groups * T,)
    target_index = torch.arange(len(targets.labels), device=device)
    return Matches(
        batch_index=targets.batch_index.repeat(num_groups),
        query_index=query_index,
        target_index=target_index.repeat(num_groups),
    )
