# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import warnings
from typing import Tuple

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from deim_mmdet.ops.boxes import aligned_iou_giou, cxcywh_to_xyxy

from .matches import Matches, to_device
from .targets import BatchTargets
from .union_set import union_of_sets

# A pair whose cost is not finite costs as much as a poor pair, and the matching goes on.
_NON_FINITE_COST = 1.0


@TASK_UTILS.register_module()
class SetMatcher:
    """One-to-one matching of queries and objects, for all prediction sets and images at once.

    The cost of a pair is ``cost_class`` times the focal cost of the object's class, plus
    ``cost_bbox`` times the L1 distance of the normalised (cx, cy, w, h), minus ``cost_giou`` times
    the GIoU (`DETR <https://arxiv.org/abs/2005.12872>`_ with the focal cost of Deformable DETR).
    All costs are computed on the device in one go and copied to the host once; the indices go back
    in one copy. Costs that are not finite become 1.

    An image alone or in a batch gives the same pairs. An image with more objects than queries
    leaves the surplus objects without a query, and warns the first time.

    Args:
        cost_class (float): Weight of the classification cost. Defaults to 2.
        cost_bbox (float): Weight of the L1 cost. Defaults to 5.
        cost_giou (float): Weight of the GIoU cost. Defaults to 2.
        alpha (float): Of the focal cost. Defaults to 0.25.
        gamma (float): Of the focal cost. Defaults to 2.
    """

    def __init__(
        self,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        if cost_class == cost_bbox == cost_giou == 0:
            raise ValueError(
                'all matching costs are 0, so every matching is as good as any other; set '
                'cost_class, cost_bbox or cost_giou'
            )
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou
        self.alpha = alpha
        self.gamma = gamma
        self._has_warned = False

    def __call__(self, cls_scores: Tensor, bboxes: Tensor, targets: BatchTargets) -> Matches:
        """Match every prediction set on its own.

        Args:
            cls_scores (Tensor): Class logits, shape (S, bs, N, C).
            bboxes (Tensor): Normalised boxes, shape (S, bs, N, 4), ordered (cx, cy, w, h).
            targets (BatchTargets): The objects of the batch.

        Returns:
            Matches: The pairs of each set, shape (S, P), on the device of ``bboxes``.
        """
        (matches,) = to_device([self.match(cls_scores, bboxes, targets)], bboxes.device)
        return matches

    def match_with_union(
        self, cls_scores: Tensor, bboxes: Tensor, targets: BatchTargets
    ) -> Tuple[Matches, Matches]:
        """Match every prediction set on its own, and take the union set of all of them.

        Args:
            cls_scores (Tensor): Class logits, shape (S, bs, N, C).
            bboxes (Tensor): Normalised boxes, shape (S, bs, N, 4), ordered (cx, cy, w, h).
            targets (BatchTargets): The objects of the batch.

        Returns:
            tuple[Matches, Matches]: The pairs of each set, shape (S, P), and their
                :func:`union_of_sets`, shape (P',), on the device of ``bboxes``. Both travel in one
                copy.
        """
        matches = self.match(cls_scores, bboxes, targets)
        return to_device([matches, union_of_sets(matches)], bboxes.device)

    @torch.no_grad()
    def match(self, cls_scores: Tensor, bboxes: Tensor, targets: BatchTargets) -> Matches:
        """The matching as NumPy arrays on the host. Arguments as in :meth:`__call__`."""
        self._warn_of_surplus(bboxes.shape[2], targets.max_count)

        cost = self.pairwise_cost(cls_scores, bboxes, targets)
        cost = cost.cpu().numpy()  # the one device-to-host copy of a training step

        counts = np.asarray(targets.counts)
        ends = np.cumsum(counts)
        begins = ends - counts
        queries, objects = [], []
        for cost_of_set in cost:
            for begin, end in zip(begins, ends):
                # objects as rows: they are contiguous, and the solver prefers the shorter side
                rows, columns = linear_sum_assignment(cost_of_set[begin:end])
                objects.append(rows + begin)
                queries.append(columns)

        # every set has min(count, N) pairs in every image
        num_sets, num_pairs = len(cost), np.minimum(counts, bboxes.shape[2])
        images = np.repeat(np.arange(len(counts)), num_pairs)
        return Matches(
            batch_index=np.broadcast_to(images, (num_sets, len(images))),
            query_index=np.concatenate(queries).reshape(num_sets, -1),
            target_index=np.concatenate(objects).reshape(num_sets, -1),
        )

    def pairwise_cost(self, cls_scores: Tensor, bboxes: Tensor, targets: BatchTargets) -> Tensor:
        """Cost of every object with every query of its own image.

        Args:
            cls_scores (Tensor): Class logits, shape (S, bs, N, C).
            bboxes (Tensor): Normalised boxes, shape (S, bs, N, 4), ordered (cx, cy, w, h).
            targets (BatchTargets): The objects of the batch.

        Returns:
            Tensor: Finite costs, shape (S, T, N), float32.
        """
        # Objects are not padded to the longest image: T rows, each against its own image.
        objects = targets.boxes[:, None]  # (T, 1, 4)
        queries = bboxes.float()
        cost = self._focal_cost(cls_scores, targets).mul_(self.cost_class)
        cost.add_(_l1_distance(_by_object(queries, targets), objects), alpha=self.cost_bbox)
        queries = _by_object(cxcywh_to_xyxy(queries), targets)
        _, giou = aligned_iou_giou(queries, cxcywh_to_xyxy(objects))
        cost.sub_(giou, alpha=self.cost_giou)
        return cost.nan_to_num_(_NON_FINITE_COST, _NON_FINITE_COST, _NON_FINITE_COST)

    def _focal_cost(self, cls_scores: Tensor, targets: BatchTargets) -> Tensor:
        """Focal loss of the object's class if the pair is made, less the loss if it is not."""
        # (S, bs, N, C) -> (T, S, N) -> (S, T, N): one logit per pair, then the cost
        logits = cls_scores[:, targets.batch_index, :, targets.labels].transpose(0, 1).float()
        probabilities = logits.sigmoid()
        rest = 1 - probabilities
        positive = (probabilities + 1e-8).log_().mul_(rest**self.gamma).mul_(-self.alpha)
        negative = (rest + 1e-8).log_().mul_(probabilities**self.gamma).mul_(self.alpha - 1)
        return positive.sub_(negative)

    def _warn_of_surplus(self, num_queries: int, max_count: int) -> None:
        if max_count > num_queries and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f'an image has {max_count} objects but the model only {num_queries} queries: '
                f'{max_count - num_queries} of them get no query and are not learnt from this '
                'image. Raise num_queries, or crop or filter such images.',
                stacklevel=3,
            )


def _by_object(boxes: Tensor, targets: BatchTargets) -> Tensor:
    """The boxes of each object's image: (S, bs, N, 4) -> (S, T, N, 4).

    In memory each coordinate is a plane of its own, which makes the arithmetic on planes several
    times faster on a CPU than on every fourth number.
    """
    return boxes.movedim(-1, 0).contiguous()[:, :, targets.batch_index].movedim(0, -1)


def _l1_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences over the last dimension, without holding them all at once."""
    a, b = a.unbind(-1), b.unbind(-1)
    distance = (a[0] - b[0]).abs_()
    for i in range(1, 4):
        distance.add_((a[i] - b[i]).abs_())
    return distance
