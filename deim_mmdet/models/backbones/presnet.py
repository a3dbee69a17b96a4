# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from collections import OrderedDict
from typing import Optional, Sequence

import torch.nn as nn
from mmcv.cnn import build_activation_layer
from mmdet.registry import MODELS
from torch import Tensor

from ..layers.conv import ConvNormAct
from .staged_backbone import StagedBackbone, check_stages, run_blocks

# depth: (bottleneck blocks or basic ones, blocks of each of the four stages)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}
STEM_CHANNELS = (32, 32, 64)


@MODELS.register_module()
class PResNet(StagedBackbone):
    """ResNet-vd of PaddleDetection, the backbone of RT-DETR (arXiv 2304.08069).

    ResNet with three convolutions in the stem and average pooling in the shortcuts that downsample
    (ResNet-D, arXiv 1812.01187). Parameter names are those of the published checkpoints, so that
    published ImageNet weights load through ``init_cfg=dict(type='Pretrained', checkpoint=...)`` as
    they are.

    mmdet's ``ResNetV1d`` is not the same network for depths 18 and 34: here the first block of all
    has a convolution in its shortcut although its channels stay the same.

    Args:
        depth (int): 18, 34, 50 or 101. Defaults to 50.
        out_indices (Sequence[int]): Stages whose output is returned. Stage i has stride
            ``4 * 2 ** i``. Defaults to (1, 2, 3).
        in_channels (int): Channels of the image. Defaults to 3.
        frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and the first n stages:
            no gradients, norms in evaluation mode. Defaults to -1.
        freeze_norm (bool): Replace every batch norm by fixed statistics and affine, which are
            buffers and no parameters. Defaults to False.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='ReLU', inplace=True)``.
        with_cp (bool): Recompute blocks in the backward pass, which saves memory and costs time.
            Defaults to False.
        init_cfg (dict, optional): Initialisation. Defaults to None: PyTorch's.

    Raises:
        ValueError: Unknown ``depth``, ``out_indices`` or ``frozen_stages`` out of range.

    Attributes:
        out_channels (tuple[int]): Channels of the returned levels.
        out_strides (tuple[int]): Strides of the returned levels.
    """

    def __init__(
        self,
        depth: int = 50,
        out_indices: Sequence[int] = (1, 2, 3),
        in_channels: int = 3,
        frozen_stages: int = -1,
        freeze_norm: bool = False,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        with_cp: bool = False,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if depth not in DEPTHS:
            raise ValueError(
                f'PResNet has no depth {depth}: take one of {", ".join(map(str, DEPTHS))}.'
            )
        bottleneck, num_blocks = DEPTHS[depth]
        check_stages(len(num_blocks), out_indices, frozen_stages)
        layer_cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        block = Bottleneck if bottleneck else BasicBlock

        self.conv1 = build_stem(in_channels, **layer_cfg)
        self.res_layers = nn.ModuleList()
        previous, channels, strides = STEM_CHANNELS[-1], [], []
        for index, blocks in enumerate(num_blocks):
            mid_channels, stride = 64 * 2**index, 2 if index else 1
            self.res_layers.append(
                ResStage(block, previous, mid_channels, blocks, stride, with_cp, **layer_cfg)
            )
            previous = block.expansion * mid_channels
            channels.append(previous)
            strides.append(4 * 2**index)
        self.finish(channels, strides, out_indices, frozen_stages, freeze_norm)

    def stem_and_stages(self) -> Sequence[nn.Module]:
        return [self.conv1, *self.res_layers]


class ConvNorm(ConvNormAct):
    """The convolution block under the names of the published PResNet weights."""

    norm_name = 'norm'


class ResStage(nn.Module):
    """A row of blocks; the first one has the stride and a convolution in its shortcut.

    Args:
        block (type): :class:`BasicBlock` or :class:`Bottleneck`.
        in_channels (int): Channels of the input.
        mid_channels (int): Channels inside the blocks; ``block.expansion`` times as many come out.
        num_blocks (int): Number of blocks.
        stride (int): Stride of the first block.
        with_cp (bool): Recompute blocks in the backward pass.
        norm_cfg (dict): Norm layer.
        act_cfg (dict): Activation.
    """

    def __init__(
        self,
        block: type,
        in_channels: int,
        mid_channels: int,
        num_blocks: int,
        stride: int,
        with_cp: bool,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        out_channels = block.expansion * mid_channels
        self.blocks = nn.ModuleList(
            block(
                out_channels if index else in_channels,
                mid_channels,
                1 if index else stride,
                None if index else build_shortcut(in_channels, out_channels, stride, norm_cfg),
                norm_cfg,
                act_cfg,
            )
            for index in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, expansion * mid_channels, H / stride, W / stride)."""
        return run_blocks(self.blocks, x, self.with_cp)


class ResBlock(nn.Module):
    """A shortcut around a branch of convolutions.

    Args:
        in_channels (int): Channels of the input.
        mid_channels (int): Channels inside; ``expansion`` times as many come out.
        stride (int): Stride.
        shortcut (nn.Module, optional): What the input goes through; None: nothing.
        norm_cfg (dict): Norm layer.
        act_cfg (dict): Activation.
    """

    expansion: int

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        stride: int,
        shortcut: Optional[nn.Module],
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.short = shortcut or nn.Identity()
        self.act = build_activation_layer(act_cfg)
        self.build_branch(in_channels, mid_channels, stride, norm_cfg, act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, expansion * mid_channels, H / stride, W / stride)."""
        return self.act(self.branch(x) + self.short(x))


class BasicBlock(ResBlock):
    """Two 3x3 convolutions."""

    expansion = 1

    def build_branch(
        self, in_channels: int, mid_channels: int, stride: int, norm_cfg: dict, act_cfg: dict
    ) -> None:
        cfg = dict(norm_cfg=norm_cfg)
        self.branch2a = ConvNorm(in_channels, mid_channels, 3, stride, act_cfg=act_cfg, **cfg)
        self.branch2b = ConvNorm(mid_channels, mid_channels, 3, **cfg)

    def branch(self, x: Tensor) -> Tensor:
        return self.branch2b(self.branch2a(x))


class Bottleneck(ResBlock):
    """A 3x3 convolution, which has the stride, between two 1x1 ones."""

    expansion = 4

    def build_branch(
        self, in_channels: int, mid_channels: int, stride: int, norm_cfg: dict, act_cfg: dict
    ) -> None:
        cfg = dict(norm_cfg=norm_cfg)
        self.branch2a = ConvNorm(in_channels, mid_channels, 1, act_cfg=act_cfg, **cfg)
        self.branch2b = ConvNorm(mid_channels, mid_channels, 3, stride, act_cfg=act_cfg, **cfg)
        self.branch2c = ConvNorm(mid_channels, self.expansion * mid_channels, 1, **cfg)

    def branch(self, x: Tensor) -> Tensor:
        return self.branch2c(self.branch2b(self.branch2a(x)))


def build_stem(in_channels: int, norm_cfg: dict, act_cfg: dict) -> nn.Sequential:
    """Stride 4: three 3x3 convolutions, the first of stride 2, and a max-pool."""
    first, second, last = STEM_CHANNELS
    cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
    return nn.Sequential(
        OrderedDict(
            conv1_1=ConvNorm(in_channels, first, 3, stride=2, **cfg),
            conv1_2=ConvNorm(first, second, 3, **cfg),
            conv1_3=ConvNorm(second, last, 3, **cfg),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def build_shortcut(in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> nn.Module:
    """1x1 convolution; where the map shrinks, the average of 2x2 cells comes first (ResNet-D)."""
    conv = ConvNorm(in_channels, out_channels, 1, norm_cfg=norm_cfg)
    if stride == 1:
        return conv
    return nn.Sequential(OrderedDict(pool=nn.AvgPool2d(2, stride, ceil_mode=True), conv=conv))
