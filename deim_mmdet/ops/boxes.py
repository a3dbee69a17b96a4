# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes: the two layouts, and overlaps of aligned pairs.

Every function takes any leading dimensions, broadcasts them, and keeps the dtype it is given.
Degenerate boxes (no width or height) overlap nothing and give finite values and gradients.
"""

from typing import Tuple

import torch
from torch import Tensor

# Keeps 0 / 0 out of the overlap of two boxes without area. Far below the area of any real box:
# a tenth of a pixel squared in an image of 10000 x 10000 pixels is 1e-10 in normalised units.
_MIN_AREA = 1e-12


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size into corners.

    Args:
        boxes (Tensor): Boxes, shape (..., 4), ordered (cx, cy, w, h), any unit.

    Returns:
        Tensor: The same boxes and unit, shape (..., 4), ordered (x1, y1, x2, y2).
    """
    centre, half_size = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat((centre - half_size, centre + half_size), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turn corners into centre and size.

    Args:
        boxes (Tensor): Boxes, shape (..., 4), ordered (x1, y1, x2, y2), any unit.

    Returns:
        Tensor: The same boxes and unit, shape (..., 4), ordered (cx, cy, w, h).
    """
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat((0.5 * (top_left + bottom_right), bottom_right - top_left), dim=-1)


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of box i of ``a`` with box i of ``b``.

    Args:
        a (Tensor): Boxes, shape (..., 4), ordered (x1, y1, x2, y2), any unit.
        b (Tensor): Boxes in the same order and unit; its shape broadcasts with that of ``a``.

    Returns:
        Tensor: IoU, shape (...), each in [0, 1].
    """
    intersection, union = _intersection_and_union(a.unbind(-1), b.unbind(-1))
    return intersection / union


def aligned_iou_giou(a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    """IoU and generalised IoU of box i of ``a`` with box i of ``b``.

    Args:
        a (Tensor): Boxes, shape (..., 4), ordered (x1, y1, x2, y2), any unit.
        b (Tensor): Boxes in the same order and unit; its shape broadcasts with that of ``a``.

    Returns:
        tuple[Tensor, Tensor]: IoU in [0, 1] and GIoU in [-1, 1], each of shape (...).
            GIoU = IoU - (hull - union) / hull (`arXiv:1902.09630`).
    """
    a, b = a.unbind(-1), b.unbind(-1)
    intersection, union = _intersection_and_union(a, b)
    iou = intersection / union
    hull_w = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    hull_h = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    hull = (hull_w * hull_h).clamp(min=_MIN_AREA)
    # iou - (hull - union) / hull
    return iou, iou - 1 + union / hull


def _intersection_and_union(a: Tuple[Tensor, ...], b: Tuple[Tensor, ...]) -> Tuple[Tensor, Tensor]:
    """Areas from the four coordinates: planes of one coordinate broadcast without waste."""
    w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    intersection = w * h
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    union = (area_a + area_b - intersection).clamp(min=_MIN_AREA)
    return intersection, union
