# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from ..layers.conv import ConvNormAct
from .staged_backbone import StagedBackbone, check_stages, run_blocks

# One row per stage: (mid, out, blocks, layers, kernel, downsample, light)
#   mid         channels of the layers of a block
#   out         channels of the stage
#   blocks      number of blocks
#   layers      layers of a block; their outputs are all aggregated
#   kernel      side of the kernel of the layers
#   downsample  1: a depthwise 3x3 convolution of stride 2 comes first
#   light       1: a layer is a 1x1 and a depthwise convolution, 0: an ordinary one
# lab = learned affine behind the activations; stem = (mid, out) channels.
# B0 - B6: the sizes of PP-HGNetV2. Pico, Femto and Atto: B0 without its last stage, as cut for
# the smallest detectors of this family.
# fmt: off
SIZES = {
    'Atto':  dict(lab=True, stem=(16, 16), stages=(
        ( 16,   64, 1, 3, 3, 0, 0),
        ( 32,  256, 1, 3, 3, 1, 0),
        ( 64,  256, 1, 3, 3, 1, 1))),
    'Femto': dict(lab=True, stem=(16, 16), stages=(
        ( 16,   64, 1, 3, 3, 0, 0),
        ( 32,  256, 1, 3, 3, 1, 0),
        ( 64,  512, 1, 3, 5, 1, 1))),
    'Pico':  dict(lab=True, stem=(16, 16), stages=(
        ( 16,   64, 1, 3, 3, 0, 0),
        ( 32,  256, 1, 3, 3, 1, 0),
        ( 64,  512, 2, 3, 5, 1, 1))),
    'B0':    dict(lab=True, stem=(16, 16), stages=(
        ( 16,   64, 1, 3, 3, 0, 0),
        ( 32,  256, 1, 3, 3, 1, 0),
        ( 64,  512, 2, 3, 5, 1, 1),
        (128, 1024, 1, 3, 5, 1, 1))),
    'B1':    dict(lab=True, stem=(24, 32), stages=(
        ( 32,   64, 1, 3, 3, 0, 0),
        ( 48,  256, 1, 3, 3, 1, 0),
        ( 96,  512, 2, 3, 5, 1, 1),
        (192, 1024, 1, 3, 5, 1, 1))),
    'B2':    dict(lab=True, stem=(24, 32), stages=(
        ( 32,   96, 1, 4, 3, 0, 0),
        ( 64,  384, 1, 4, 3, 1, 0),
        (128,  768, 3, 4, 5, 1, 1),
        (256, 1536, 1, 4, 5, 1, 1))),
    'B3':    dict(lab=True, stem=(24, 32), stages=(
        ( 32,  128, 1, 5, 3, 0, 0),
        ( 64,  512, 1, 5, 3, 1, 0),
        (128, 1024, 3, 5, 5, 1, 1),
        (256, 2048, 1, 5, 5, 1, 1))),
    'B4':    dict(lab=False, stem=(32, 48), stages=(
        ( 48,  128, 1, 6, 3, 0, 0),
        ( 96,  512, 1, 6, 3, 1, 0),
        (192, 1024, 3, 6, 5, 1, 1),
        (384, 2048, 1, 6, 5, 1, 1))),
    'B5':    dict(lab=False, stem=(32, 64), stages=(
        ( 64,  128, 1, 6, 3, 0, 0),
        (128,  512, 2, 6, 3, 1, 0),
        (256, 1024, 5, 6, 5, 1, 1),
        (512, 2048, 2, 6, 5, 1, 1))),
    'B6':    dict(lab=False, stem=(48, 96), stages=(
        ( 96,  192, 2, 6, 3, 0, 0),
        (192,  512, 3, 6, 3, 1, 0),
        (384, 1024, 6, 6, 5, 1, 1),
        (768, 2048, 3, 6, 5, 1, 1))),
}
# fmt: on


@MODELS.register_module()
class HGNetv2(StagedBackbone):
    """PP-HGNetV2, the backbone of D-FINE and DEIM.

    A stem of stride 4, then stages of blocks that aggregate the outputs of all their layers.
    Parameter names are those of the published checkpoints, so that published ImageNet weights
    load through ``init_cfg=dict(type='Pretrained', checkpoint=...)`` as they are.

    Args:
        name (str): Size: Atto, Femto, Pico or B0 to B6. Defaults to 'B0'.
        out_indices (Sequence[int]): Stages whose output is returned. Stage i of the published
            sizes has stride ``4 * 2 ** i``. Defaults to (1, 2, 3).
        use_lab (bool, optional): Learned affine behind the activations. Defaults to None: as the
            size has it.
        stem_channels (tuple[int, int], optional): Inner and output channels of the stem, in
            place of those of the size. Defaults to None.
        stages (Sequence[tuple], optional): Stages in place of those of the size, each ``(mid,
            out, blocks, layers, kernel, downsample, light)``, see ``SIZES``. Defaults to None.
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
        ValueError: Unknown ``name``, ``out_indices`` or ``frozen_stages`` out of range, or a row
            of ``stages`` that does not have seven entries.

    Attributes:
        out_channels (tuple[int]): Channels of the returned levels.
        out_strides (tuple[int]): Strides of the returned levels.
    """

    def __init__(
        self,
        name: str = 'B0',
        out_indices: Sequence[int] = (1, 2, 3),
        use_lab: Optional[bool] = None,
        stem_channels: Optional[Tuple[int, int]] = None,
        stages: Optional[Sequence[tuple]] = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        freeze_norm: bool = False,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        with_cp: bool = False,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if name not in SIZES:
            raise ValueError(
                f'HGNetv2 has no size {name!r}: take one of {", ".join(SIZES)}, and give '
                '`stem_channels` and `stages` for a size of your own.'
            )
        size = SIZES[name]
        stem_channels = stem_channels or size['stem']
        stages = stages or size['stages']
        _check_rows(stages)
        check_stages(len(stages), out_indices, frozen_stages)
        layer_cfg = dict(
            norm_cfg=norm_cfg, act_cfg=act_cfg, use_lab=size['lab'] if use_lab is None else use_lab
        )

        self.stem = HGStem(in_channels, *stem_channels, **layer_cfg)
        self.stages = nn.ModuleList()
        channels, stride = stem_channels[1], 4
        out_channels, out_strides = [], []
        for row in stages:
            self.stages.append(HGStage(channels, *row, with_cp=with_cp, **layer_cfg))
            channels, downsample = row[1], row[5]
            stride *= 2 if downsample else 1
            out_channels.append(channels)
            out_strides.append(stride)

        self.finish(out_channels, out_strides, out_indices, frozen_stages, freeze_norm)

    def stem_and_stages(self) -> Sequence[nn.Module]:
        return [self.stem, *self.stages]


class HGStem(nn.Module):
    """Stride 4: a 3x3 convolution, then a pooled and a 2x2-convolved branch, joined.

    Args:
        in_channels (int): Channels of the image.
        mid_channels (int): Channels inside.
        out_channels (int): Channels of the output.
        layer_cfg: Norm, activation and learned affine of :class:`ConvNormAct`.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, **layer_cfg) -> None:
        super().__init__()
        self.stem1 = ConvNormAct(in_channels, mid_channels, 3, stride=2, **layer_cfg)
        self.stem2a = ConvNormAct(mid_channels, mid_channels // 2, 2, **layer_cfg)
        self.stem2b = ConvNormAct(mid_channels // 2, mid_channels, 2, **layer_cfg)
        self.stem3 = ConvNormAct(mid_channels * 2, mid_channels, 3, stride=2, **layer_cfg)
        self.stem4 = ConvNormAct(mid_channels, out_channels, 1, **layer_cfg)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H / 4, W / 4)."""
        # a 2x2 window keeps the size with one more column on the right and one more row below
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        convolved = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        x = torch.cat([self.pool(x), convolved], dim=1)
        return self.stem4(self.stem3(x))


class HGStage(nn.Module):
    """Optional downsampling and a sequence of blocks.

    Args:
        in_channels (int): Channels of the input.
        mid_channels, out_channels, num_blocks, num_layers, kernel_size, downsample, light: One row
            of ``SIZES``.
        with_cp (bool): Recompute blocks in the backward pass. Defaults to False.
        layer_cfg: Norm, activation and learned affine of :class:`ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        num_blocks: int,
        num_layers: int,
        kernel_size: int,
        downsample: bool,
        light: bool,
        with_cp: bool = False,
        **layer_cfg,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.downsample = nn.Identity()
        if downsample:
            self.downsample = ConvNormAct(
                in_channels,
                in_channels,
                3,
                stride=2,
                groups=in_channels,
                norm_cfg=layer_cfg['norm_cfg'],
            )
        self.blocks = nn.Sequential(
            *[
                HGBlock(
                    out_channels if index else in_channels,
                    mid_channels,
                    out_channels,
                    num_layers,
                    kernel_size,
                    light,
                    residual=index > 0,
                    **layer_cfg,
                )
                for index in range(num_blocks)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H / 2, W / 2), or H, W undivided."""
        return run_blocks(self.blocks, self.downsample(x), self.with_cp)


class HGBlock(nn.Module):
    """A chain of layers; input and all layer outputs are aggregated by two 1x1 convolutions.

    Args:
        in_channels (int): Channels of the input.
        mid_channels (int): Channels of each layer.
        out_channels (int): Channels of the output.
        num_layers (int): Number of layers.
        kernel_size (int): Side of the kernel of the layers.
        light (bool): Use :class:`LightConv` as layers.
        residual (bool): Add the input, which must have ``out_channels`` channels.
        layer_cfg: Norm, activation and learned affine of :class:`ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        num_layers: int,
        kernel_size: int,
        light: bool,
        residual: bool,
        **layer_cfg,
    ) -> None:
        super().__init__()
        self.residual = residual
        layer = LightConv if light else ConvNormAct
        self.layers = nn.ModuleList(
            layer(mid_channels if index else in_channels, mid_channels, kernel_size, **layer_cfg)
            for index in range(num_layers)
        )
        self.aggregation = nn.Sequential(
            ConvNormAct(in_channels + num_layers * mid_channels, out_channels // 2, 1, **layer_cfg),
            ConvNormAct(out_channels // 2, out_channels, 1, **layer_cfg),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        aggregated = self.aggregation(torch.cat(outputs, dim=1))
        return aggregated + x if self.residual else aggregated


class LightConv(nn.Module):
    """1x1 convolution without activation, then a depthwise one.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the depthwise kernel.
        norm_cfg (dict): Norm layer.
        act_cfg (dict): Activation.
        use_lab (bool): Learned affine behind the activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: dict,
        act_cfg: dict,
        use_lab: bool,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, 1, norm_cfg=norm_cfg)
        self.conv2 = ConvNormAct(
            out_channels,
            out_channels,
            kernel_size,
            groups=out_channels,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            use_lab=use_lab,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(bs, in_channels, H, W) -> (bs, out_channels, H, W)."""
        return self.conv2(self.conv1(x))


def _check_rows(stages: Sequence[tuple]) -> None:
    for index, row in enumerate(stages):
        if len(row) != 7:
            raise ValueError(
                f'stages[{index}] = {row} has {len(row)} entries, not seven: give (mid, out, '
                'blocks, layers, kernel, downsample, light).'
            )
