# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Fusion blocks and downsampling of the hybrid encoder; each is a registered type.

A block is built with ``in_channels, out_channels, num_blocks, expansion, norm_cfg, act_cfg``, a
downsampling layer with ``channels, norm_cfg, act_cfg``.
"""

from typing import Optional

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from .conv import ConvNormAct, RepVGGBlock


@MODELS.register_module()
class RepNCSPELAN4(nn.Module):
    """Fusion block of D-FINE: a split and two CSP branches in a row, all of it joined.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        num_blocks (int): RepVGG blocks in each branch. Defaults to 3.
        expansion (float): Channels of the branches, relative to half of ``out_channels``. Defaults
            to 1.0.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        expansion: float = 1.0,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='SiLU'),
    ) -> None:
        super().__init__()
        split_channels = out_channels  # each half of the split
        mid_channels = round(expansion * out_channels // 2)
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.split_conv = ConvNormAct(in_channels, 2 * split_channels, 1, **cfg)
        self.branches = nn.ModuleList(
            nn.Sequential(
                CSPRepLayer(channels, mid_channels, num_blocks, expansion=1.0, **cfg),
                ConvNormAct(mid_channels, mid_channels, 3, **cfg),
            )
            for channels in (split_channels, mid_channels)
        )
        self.final_conv = ConvNormAct(2 * split_channels + 2 * mid_channels, out_channels, 1, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        parts = list(self.split_conv(x).chunk(2, dim=1))
        for branch in self.branches:
            parts.append(branch(parts[-1]))
        return self.final_conv(torch.cat(parts, dim=1))


@MODELS.register_module()
class CSPRepLayer(nn.Module):
    """CSP layer with RepVGG blocks, whose two ways are added: fusion block of RT-DETR.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        num_blocks (int): RepVGG blocks on the main way. Defaults to 3.
        expansion (float): Channels inside, relative to ``out_channels``. Defaults to 1.0.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        expansion: float = 1.0,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='SiLU'),
    ) -> None:
        super().__init__()
        mid_channels = int(out_channels * expansion)
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.main_conv = ConvNormAct(in_channels, mid_channels, 1, **cfg)
        self.short_conv = ConvNormAct(in_channels, mid_channels, 1, **cfg)
        self.blocks = nn.Sequential(
            *[RepVGGBlock(mid_channels, mid_channels, **cfg) for _ in range(num_blocks)]
        )
        self.final_conv = nn.Identity()
        if mid_channels != out_channels:
            self.final_conv = ConvNormAct(mid_channels, out_channels, 1, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        return self.final_conv(self.blocks(self.main_conv(x)) + self.short_conv(x))


@MODELS.register_module()
class SeparableDownsample(nn.Sequential):
    """Downsampling of D-FINE: a 1x1, then a depthwise 3x3 convolution of stride 2.

    Neither has an activation.

    Args:
        channels (int): Channels of input and output.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict, optional): Not used.
    """

    def __init__(
        self, channels: int, norm_cfg: dict = dict(type='BN'), act_cfg: Optional[dict] = None
    ) -> None:
        super().__init__()
        self.pointwise = ConvNormAct(channels, channels, 1, norm_cfg=norm_cfg)
        self.depthwise = ConvNormAct(
            channels, channels, 3, stride=2, groups=channels, norm_cfg=norm_cfg
        )


@MODELS.register_module()
class ConvDownsample(ConvNormAct):
    """Downsampling of RT-DETR: one 3x3 convolution of stride 2 with activation.

    Args:
        channels (int): Channels of input and output.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU')``.
    """

    def __init__(
        self,
        channels: int,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='SiLU'),
    ) -> None:
        super().__init__(channels, channels, 3, stride=2, norm_cfg=norm_cfg, act_cfg=act_cfg)
