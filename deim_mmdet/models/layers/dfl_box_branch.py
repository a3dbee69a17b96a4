# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Sequence, Tuple

import torch
import torch.nn as nn
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.structures.bbox import distance2bbox
from mmengine.model import BaseModule
from torch import Tensor

from ...ops.boxes import xyxy_to_cxcywh
from .conv import ConvNormAct
from .yolov8_layers import YOLOV8_ACT, YOLOV8_NORM

# every bin equally likely but for what the features say, far from any saturation
INITIAL_BIAS = 1.0


class DFLBoxBranch(BaseModule):
    """Box branch of YOLOv8: every cell predicts how far the edges of its object are.

    A distance is the mean of a distribution over ``reg_max`` bins 0, 1, ..., in strides of the
    level (Generalized Focal Loss, `arXiv:2006.04388 <https://arxiv.org/abs/2006.04388>`_, eq. 5).
    YOLOv8's head predicts with it, and DEYO's decoder starts from it.

    Args:
        in_channels (Sequence[int]): Channels of the levels, finest first.
        strides (Sequence[int]): Strides of the levels in pixels. Defaults to (8, 16, 32).
        reg_max (int): Number of bins R. Defaults to 16.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.

    Attributes:
        bins (Parameter): Distance that each bin stands for, shape (1, R, 1, 1), not trained. It has
            the shape, and is counted among the parameters, as published.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
    ) -> None:
        super().__init__()
        self.reg_max = reg_max
        mid_channels = max(64, in_channels[0] // 4)
        self.convs = build_convs(in_channels, mid_channels, norm_cfg, act_cfg)
        self.branches = nn.ModuleList(nn.Conv2d(mid_channels, 4 * reg_max, 1) for _ in in_channels)
        bins = torch.arange(reg_max, dtype=torch.float32).view(1, reg_max, 1, 1)
        self.bins = nn.Parameter(bins, requires_grad=False)
        self.prior_generator = MlvlPointGenerator(strides, offset=0.5)

    def init_weights(self) -> None:
        """The common start of all distributions."""
        super().init_weights()
        for branch in self.branches:
            nn.init.constant_(branch.bias, INITIAL_BIAS)

    def forward(self, levels: Sequence[Tensor]) -> List[Tensor]:
        """Logits of the distributions.

        Args:
            levels (Sequence[Tensor]): Features, level i of shape (bs, in_channels[i], H_i, W_i).

        Returns:
            list[Tensor]: Each of shape (bs, 4 * R, H_i, W_i): all bins of the left edge, then of
            top, right and bottom.
        """
        return [
            branch(convs(level)) for level, convs, branch in zip(levels, self.convs, self.branches)
        ]

    def integral(self, logits: Tensor) -> Tensor:
        """Mean of each distribution.

        Args:
            logits (Tensor): Shape (..., 4 * R).

        Returns:
            Tensor: Distances in strides, shape (..., 4), ordered left, top, right, bottom, each in
            [0, R - 1], float32.
        """
        probabilities = logits.unflatten(-1, (4, self.reg_max)).float().softmax(dim=-1)
        # not a matrix product: autocast would run it in half precision
        return (probabilities * self.bins.flatten().float()).sum(dim=-1)

    def decode(self, logits: Sequence[Tensor]) -> Tensor:
        """Boxes of all cells.

        Args:
            logits (Sequence[Tensor]): Result of :meth:`forward`.

        Returns:
            Tensor: Boxes in pixels of the input, shape (bs, sum of H_i * W_i, 4), ordered (x1, y1,
            x2, y2), float32; they may reach beyond the image.
        """
        centres, strides = self.cells(logits)
        return distance2bbox(centres, self.integral(flatten_levels(logits)) * strides)

    def normalized_boxes(self, logits: Sequence[Tensor], input_hw: Tuple[int, int]) -> Tensor:
        """Boxes of all cells as shares of the input.

        Args:
            logits (Sequence[Tensor]): Result of :meth:`forward`.
            input_hw (tuple[int, int]): Height and width of the input in pixels.

        Returns:
            Tensor: Normalised boxes, shape (bs, sum of H_i * W_i, 4), ordered (cx, cy, w, h),
            float32; they may reach beyond the image.
        """
        height, width = input_hw
        bboxes = xyxy_to_cxcywh(self.decode(logits))
        # NOTE numbers, not a tensor of them: an exported graph computes them from its input
        x, y = bboxes[..., 0::2] / width, bboxes[..., 1::2] / height
        return torch.stack([x, y], dim=-1).flatten(-2)

    def cells(self, levels: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Where the cells of all levels are.

        Args:
            levels (Sequence[Tensor]): Level i of shape (..., H_i, W_i).

        Returns:
            tuple[Tensor, Tensor]: Centres (x, y) in pixels, shape (T, 2), and strides in pixels,
            shape (T, 1), where T is the sum of H_i * W_i; float32.
        """
        sizes = [level.shape[-2:] for level in levels]
        cells = self.prior_generator.grid_priors(
            sizes, dtype=torch.float32, device=levels[0].device, with_stride=True
        )
        return torch.cat(cells).split((2, 1, 1), dim=-1)[:2]


def build_convs(
    in_channels: Sequence[int], mid_channels: int, norm_cfg: dict, act_cfg: dict
) -> nn.ModuleList:
    """Two 3x3 convolutions for each level, what both branches of the head begin with."""
    cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
    return nn.ModuleList(
        nn.Sequential(
            ConvNormAct(channels, mid_channels, 3, **cfg),
            ConvNormAct(mid_channels, mid_channels, 3, **cfg),
        )
        for channels in in_channels
    )


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """(bs, C, H, W) of each level -> (bs, sum of H*W, C), row by row, finest level first."""
    return torch.cat([level.flatten(2) for level in levels], dim=-1).transpose(1, 2)
