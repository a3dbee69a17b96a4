# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The two blocks that YOLOv8's backbone and neck are made of."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .conv import ConvNormAct

# of every convolution in YOLOv8; PyTorch's own values are 1e-5 and 0.1
YOLOV8_NORM = dict(type='BN', eps=1e-3, momentum=0.03)
YOLOV8_ACT = dict(type='SiLU', inplace=True)


class C2f(nn.Module):
    """CSP block of YOLOv8: one half passes, the other runs through 3x3 pairs, all of it joined.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, an even number.
        num_blocks (int): Pairs of 3x3 convolutions. Defaults to 1.
        shortcut (bool): Add the input of each pair to its output. Defaults to False.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        shortcut: bool = False,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
    ) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        mid_channels = out_channels // 2
        self.split_conv = ConvNormAct(in_channels, 2 * mid_channels, 1, **cfg)
        self.blocks = nn.ModuleList(
            ConvPair(mid_channels, shortcut, **cfg) for _ in range(num_blocks)
        )
        self.final_conv = ConvNormAct((2 + num_blocks) * mid_channels, out_channels, 1, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        parts = list(self.split_conv(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.final_conv(torch.cat(parts, dim=1))


class ConvPair(nn.Module):
    """Two 3x3 convolutions in a row.

    Args:
        channels (int): Channels of input and output.
        shortcut (bool): Add the input to the output.
        norm_cfg (dict): Norm layer.
        act_cfg (dict): Activation.
    """

    def __init__(self, channels: int, shortcut: bool, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = ConvNormAct(channels, channels, 3, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv2 = ConvNormAct(channels, channels, 3, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, channels, H, W), unchanged in shape."""
        out = self.conv2(self.conv1(x))
        return x + out if self.shortcut else out


class SPPF(nn.Module):
    """Pyramid of max-pools: a pool applied three times over, and all four maps joined.

    Pooling again with 5x5 sees 9x9, then 13x13: the windows of spatial pyramid pooling
    (arXiv 1406.4729) at the price of small ones.

    Args:
        in_channels (int): Channels of the input, an even number.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the pool, an odd number. Defaults to 5.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
    ) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        mid_channels = in_channels // 2
        self.kernel_size = kernel_size
        self.reduce_conv = ConvNormAct(in_channels, mid_channels, 1, **cfg)
        self.final_conv = ConvNormAct(4 * mid_channels, out_channels, 1, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        maps = [self.reduce_conv(x)]
        for _ in range(3):
            maps.append(
                F.max_pool2d(maps[-1], self.kernel_size, stride=1, padding=self.kernel_size // 2)
            )
        return self.final_conv(torch.cat(maps, dim=1))
