# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes as distributions over edge distances (`D-FINE <https://arxiv.org/abs/2410.13842>`_).

A reference box (cx, cy, w, h) is refined by four distances d, one per side in the order left, top,
right, bottom. In units of w / reg_scale (left, right) and h / reg_scale (top, bottom) a side lies

    0.5 * reg_scale + d

from the centre, so d = 0 keeps the side and d > 0 moves it outwards. The network does not predict d
but a distribution over ``reg_max + 1`` bins; bin n stands for the distance W(n), fine near 0 and
coarse far from it. d is the expectation of W.
"""

from typing import Tuple

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy


def weighting_function(reg_max: int, up: float = 0.5, reg_scale: float = 4.0) -> Tensor:
    """The distance W(n) each bin stands for.

    Args:
        reg_max (int): Number of bins minus one; even and at least 4.
        up (float): Together with ``reg_scale`` the reach of the fine bins. Defaults to 0.5.
        reg_scale (float): Curvature: the larger, the finer the bins near 0. Defaults to 4.

    Returns:
        Tensor: Distances in units of (reference size / reg_scale), shape (reg_max + 1,), float32,
            strictly increasing and odd about the middle: -2u, -u, ..., 0, ..., u, 2u with
            u = abs(up * reg_scale).

    Raises:
        ValueError: If ``reg_max`` is odd or below 4, or ``up * reg_scale`` is 0.
    """
    if reg_max < 4 or reg_max % 2:
        raise ValueError(f'reg_max must be even and at least 4, got {reg_max}; D-FINE uses 32')
    reach = abs(float(up) * float(reg_scale))
    if reach == 0:
        raise ValueError(f'up and reg_scale must not be 0, got up={up}, reg_scale={reg_scale}')
    half = reg_max // 2
    # step ** (half - 1) - 1 == reach: the last fine bin lies at the reach, one coarse one at twice
    step = (reach + 1) ** (2 / (reg_max - 2))
    positive = [step**i - 1 for i in range(1, half)] + [2 * reach]
    return torch.tensor([-w for w in reversed(positive)] + [0.0] + positive)


def integral(corners: Tensor, weights: Tensor) -> Tensor:
    """Expected distance of each side.

    Args:
        corners (Tensor): Logits of the bins, shape (..., 4 * (reg_max + 1)), all bins of the left
            side first, then top, right, bottom.
        weights (Tensor): W(n), shape (reg_max + 1,).

    Returns:
        Tensor: Distances, shape (..., 4), in units of (reference size / reg_scale), in the wider
            dtype of the two.
    """
    # (..., 4 * (reg_max + 1)) -> (..., 4, reg_max + 1) -> (..., 4)
    probabilities = corners.unflatten(-1, (4, weights.numel())).softmax(dim=-1)
    # not a matrix product: autocast would run it in half precision, which moves sides by pixels
    return (probabilities * weights).sum(dim=-1)


def distances_to_boxes(references: Tensor, distances: Tensor, reg_scale: float) -> Tensor:
    """Move the sides of the reference boxes.

    Args:
        references (Tensor): Reference boxes, shape (..., 4), ordered (cx, cy, w, h), any unit.
        distances (Tensor): Shape (..., 4), ordered left, top, right, bottom, in units of
            (reference size / reg_scale); positive is outwards.
        reg_scale (float): Its absolute value is used.

    Returns:
        Tensor: Boxes in the unit of the references, shape (..., 4), ordered (cx, cy, w, h).
    """
    reg_scale = abs(reg_scale)
    centre, size = references.split(2, dim=-1)
    top_left, bottom_right = distances.split(2, dim=-1)
    unit = size / reg_scale
    centre = centre + (bottom_right - top_left) * (0.5 * unit)
    return torch.cat((centre, (top_left + bottom_right + reg_scale) * unit), dim=-1)


def boxes_to_bins(
    references: Tensor, boxes: Tensor, weights: Tensor, reg_scale: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Write boxes as two neighbouring bins per side: the inverse of :func:`distances_to_boxes`.

    A distance beyond the first or last bin becomes that bin with weight 1, and so does a side of a
    reference without width or height, whose distance is infinite. A box that is not a number falls
    on some bin: the box losses show it, the lookup must not crash on it.

    Args:
        references (Tensor): Reference boxes, shape (..., 4), ordered (cx, cy, w, h), any unit.
        boxes (Tensor): Boxes to describe, same order and unit; shape broadcasts with references.
        weights (Tensor): W(n), shape (reg_max + 1,), strictly increasing.
        reg_scale (float): The one the boxes are decoded with; its absolute value is used.

    Returns:
        tuple[Tensor, Tensor, Tensor]: ``bins_left`` (long, shape (..., 4), ordered left, top,
            right, bottom, in [0, reg_max - 1]), ``weight_left`` of that bin and ``weight_right``
            of the next one (float32, shape (..., 4), in [0, 1], sum 1). No gradient.
    """
    references, boxes, weights = (x.detach().float() for x in (references, boxes, weights))

    # distance = side to centre in units of (size / reg_scale), less the half size
    corners = cxcywh_to_xyxy(boxes)
    centre, size = references[..., :2], references[..., 2:]
    extent = torch.cat((centre - corners[..., :2], corners[..., 2:] - centre), dim=-1)
    unit = (size / abs(reg_scale)).clamp(min=1e-12)
    distances = extent / torch.cat((unit, unit), dim=-1) - 0.5 * abs(reg_scale)
    distances = torch.minimum(torch.maximum(distances, weights[0]), weights[-1])

    # W(bins_left) <= distance < W(bins_left + 1)
    bins_left = torch.bucketize(distances, weights, right=True) - 1
    bins_left = bins_left.clamp(0, weights.numel() - 2)
    left, right = weights[bins_left], weights[bins_left + 1]
    weight_right = ((distances - left) / (right - left)).nan_to_num(nan=0.0)
    return bins_left, 1 - weight_right, weight_right
