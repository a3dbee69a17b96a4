# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from deim_mmdet.ops.boxes import aligned_iou


@dataclass(frozen=True)
class AlignedCells:
    """The cells that answer for each object: K places for each of M slots of objects per image.

    Args:
        index (Tensor): Cell of each place, shape (bs, M, K), long.
        score (Tensor): The class score that this cell is to have, shape (bs, M, K), in [0, 1];
            0 where the place is empty.
    """

    index: Tensor
    score: Tensor


@TASK_UTILS.register_module()
class BatchTaskAlignedAssigner:
    """Task-aligned assignment of cells to objects, for all images of a batch at once.

    The alignment of a cell with an object is ``score ** alpha * IoU ** beta`` with the score of the
    object's class. Each object takes the ``topk`` best aligned of the cells whose centre it
    contains; a cell that several objects take stays with the one it overlaps most. The score that a
    cell is to learn is its alignment, scaled so that the best cell of an object gets the best IoU
    among its cells.

    Source: TOOD, `arXiv:2108.07755 <https://arxiv.org/abs/2108.07755>`_, section 3.3.

    Differs from mmdet's ``TaskAlignedAssigner``: it asks for the centre before it takes the best,
    not after, so that a large box from outside takes no place; it has no loop over images, and
    nothing is copied to the host. An image alone or in a batch gives the same cells.

    Args:
        topk (int): K, the most cells of an object. Defaults to 10.
        alpha (float): Exponent of the score. Defaults to 0.5.
        beta (float): Exponent of the IoU. Defaults to 6.
    """

    def __init__(self, topk: int = 10, alpha: float = 0.5, beta: float = 6.0) -> None:
        if topk < 1:
            raise ValueError(f'topk must be at least 1, got {topk}')
        self.topk = topk
        self.alpha = alpha
        self.beta = beta

    @torch.no_grad()
    def __call__(
        self,
        scores: Tensor,
        boxes: Tensor,
        centres: Tensor,
        gt_labels: Tensor,
        gt_boxes: Tensor,
        gt_valid: Tensor,
    ) -> AlignedCells:
        """Assign.

        Args:
            scores (Tensor): Class scores of the cells, shape (bs, T, C), in [0, 1].
            boxes (Tensor): Predicted boxes, shape (bs, T, 4), ordered (x1, y1, x2, y2), in pixels.
            centres (Tensor): Centres (x, y) of the cells, shape (T, 2), in pixels.
            gt_labels (Tensor): Classes of the objects, shape (bs, M), long; any class where there
                is no object.
            gt_boxes (Tensor): Boxes of the objects, shape (bs, M, 4), order and unit as ``boxes``.
            gt_valid (Tensor): Whether there is an object, shape (bs, M), bool.

        Returns:
            AlignedCells: With K = min(topk, T).
        """
        num_cells = boxes.shape[1]
        # (bs, M, T)
        overlaps = aligned_iou(boxes[:, None], gt_boxes[:, :, None])
        class_index = gt_labels[:, :, None].expand(-1, -1, num_cells)
        alignment = scores.transpose(1, 2).gather(1, class_index) ** self.alpha
        alignment = alignment * overlaps**self.beta
        alignment = alignment * (contains(gt_boxes, centres) & gt_valid[:, :, None])

        # (bs, M, T) -> (bs, M, K)
        alignment, index = alignment.topk(min(self.topk, num_cells), dim=-1)
        overlaps = overlaps.gather(-1, index)
        taken = keep_one_object(index, overlaps, alignment > 0, num_cells)
        alignment, overlaps = alignment * taken, overlaps * taken
        # a dead slot is 0 / 0 without the clamp; any real alignment may be far below 1e-7
        best = alignment.amax(-1, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
        return AlignedCells(index, alignment / best * overlaps.amax(-1, keepdim=True))


def contains(boxes: Tensor, points: Tensor) -> Tensor:
    """Whether boxes (bs, M, 4) as xyxy contain points (T, 2): (bs, M, T)."""
    x, y = points.unbind(-1)
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def keep_one_object(index: Tensor, overlaps: Tensor, taken: Tensor, num_cells: int) -> Tensor:
    """Leave every cell to the object that it overlaps most, the first of equals.

    Args:
        index (Tensor): Cell of each place, shape (bs, M, K), in [0, num_cells - 1].
        overlaps (Tensor): IoU of that cell's box with the object, shape (bs, M, K).
        taken (Tensor): Whether the place is taken, shape (bs, M, K), bool.
        num_cells (int): T.

    Returns:
        Tensor: Whether the place is still taken, shape (bs, M, K), bool.
    """
    bs, num_objects, _ = shape = index.shape
    cells = index.flatten(1)  # (bs, M * K)

    def smallest(values: Tensor) -> Tensor:
        """Smallest value of each cell, at the places of that cell."""
        least = values.new_full((bs, num_cells), num_objects)
        least = least.scatter_reduce(1, cells, values.flatten(1), reduce='amin')
        return least.gather(1, cells).view(shape)

    loss = torch.where(taken, 1 - overlaps, 2.0)
    taken = taken & (loss == smallest(loss))
    rank = torch.arange(num_objects, device=index.device)[:, None].expand(shape)
    rank = rank.masked_fill(~taken, num_objects)
    return taken & (rank == smallest(rank))
