# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ..layers.conv import ConvNormAct, fuse_all
from ..layers.transformer_encoder import TransformerEncoder
from .levels import check_levels


@MODELS.register_module()
class HybridEncoder(BaseModule):
    """Hybrid encoder of RT-DETR (arXiv 2304.08069); the defaults are D-FINE's form.

    A transformer over the coarsest level, then convolutional fusion top-down and bottom-up.

    The RT-DETRv2 form is ``block_cfg=dict(type='CSPRepLayer'), downsample_cfg=dict(
    type='ConvDownsample'), lateral_act_cfg=dict(type='SiLU')``.

    Args:
        in_channels (Sequence[int]): Channels of the levels of the backbone, finest first. Each
            level is half the size of the one before.
        embed_dims (int): Channels inside and of every output. Defaults to 256.
        encoder_levels (Sequence[int]): Levels that get a transformer. Defaults to (-1, ), the
            coarsest.
        num_encoder_layers (int): Transformer layers of each of them. Defaults to 1.
        num_heads (int): Attention heads. Defaults to 8.
        ffn_channels (int): Hidden channels of the transformer's feed-forward network. Defaults
            to 1024.
        dropout (float): Dropout rate in the transformer. Defaults to 0.0.
        ffn_act_cfg (dict): Activation of the feed-forward network. Defaults to
            ``dict(type='GELU')``.
        temperature (float): Temperature of the sine positions. Defaults to 10000.
        expansion (float): Width of the fusion blocks. Defaults to 1.0.
        depth_mult (float): Depth of the fusion blocks: ``round(3 * depth_mult)`` RepVGG blocks in
            a row. Defaults to 1.0.
        block_cfg (dict): Type of the fusion blocks. Defaults to ``dict(type='RepNCSPELAN4')``.
        downsample_cfg (dict): Type of the downsampling. Defaults to
            ``dict(type='SeparableDownsample')``.
        lateral_act_cfg (dict, optional): Activation of the lateral convolutions. Defaults to
            None.
        norm_cfg (dict): Norm layer of the convolutions. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation of the convolutions. Defaults to ``dict(type='SiLU')``.
        init_cfg (dict, optional): Initialisation. Defaults to None: PyTorch's.

    Raises:
        ValueError: ``encoder_levels`` out of range; in ``forward``, levels that do not fit
            ``in_channels`` or are not half the size of each other.

    Attributes:
        out_channels (tuple[int]): ``embed_dims`` for each level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        embed_dims: int = 256,
        encoder_levels: Sequence[int] = (-1,),
        num_encoder_layers: int = 1,
        num_heads: int = 8,
        ffn_channels: int = 1024,
        dropout: float = 0.0,
        ffn_act_cfg: dict = dict(type='GELU'),
        temperature: float = 10000.0,
        expansion: float = 1.0,
        depth_mult: float = 1.0,
        block_cfg: dict = dict(type='RepNCSPELAN4'),
        downsample_cfg: dict = dict(type='SeparableDownsample'),
        lateral_act_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='SiLU'),
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        num_levels = len(in_channels)
        for level in encoder_levels:
            if not -num_levels <= level < num_levels:
                raise ValueError(
                    f'encoder_levels = {tuple(encoder_levels)}: there is no level {level} among '
                    f'{num_levels}.'
                )
        self.in_channels = tuple(in_channels)
        self.out_channels = (embed_dims,) * num_levels
        self.encoder_levels = tuple(level % num_levels for level in encoder_levels)

        self.input_projs = nn.ModuleList(
            ConvNormAct(channels, embed_dims, 1, norm_cfg=norm_cfg) for channels in in_channels
        )
        self.transformers = nn.ModuleList(
            TransformerEncoder(
                num_encoder_layers,
                embed_dims,
                num_heads,
                ffn_channels,
                dropout,
                ffn_act_cfg,
                temperature,
            )
            for _ in encoder_levels
        )

        conv_cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        block_cfg = {
            'in_channels': 2 * embed_dims,
            'out_channels': embed_dims,
            'num_blocks': round(3 * depth_mult),
            'expansion': expansion,
            **conv_cfg,
            **block_cfg,
        }
        downsample_cfg = {'channels': embed_dims, **conv_cfg, **downsample_cfg}

        steps = range(num_levels - 1)
        self.lateral_convs = nn.ModuleList(
            ConvNormAct(embed_dims, embed_dims, 1, norm_cfg=norm_cfg, act_cfg=lateral_act_cfg)
            for _ in steps
        )
        self.fpn_blocks = nn.ModuleList(MODELS.build(block_cfg) for _ in steps)
        self.downsample_convs = nn.ModuleList(MODELS.build(downsample_cfg) for _ in steps)
        self.pan_blocks = nn.ModuleList(MODELS.build(block_cfg) for _ in steps)

    def forward(self, levels: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Fuse the levels of the backbone.

        Args:
            levels (Sequence[Tensor]): Finest first, level i of shape (bs, in_channels[i], H / 2^i,
                W / 2^i).

        Returns:
            tuple[Tensor]: As many levels, of shape (bs, embed_dims, H / 2^i, W / 2^i).
        """
        check_levels(levels, self.in_channels)
        levels = [project(level) for project, level in zip(self.input_projs, levels)]
        for index, transformer in zip(self.encoder_levels, self.transformers):
            levels[index] = transformer(levels[index])
        return self._bottom_up(self._top_down(levels))

    def _top_down(self, levels: Sequence[Tensor]) -> list:
        fused = [levels[-1]]  # coarsest first
        for finer, lateral, block in zip(levels[-2::-1], self.lateral_convs, self.fpn_blocks):
            fused[-1] = lateral(fused[-1])
            upsampled = F.interpolate(fused[-1], scale_factor=2.0, mode='nearest')
            fused.append(block(torch.cat([upsampled, finer], dim=1)))
        return fused[::-1]

    def _bottom_up(self, levels: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        outputs = [levels[0]]
        for coarser, downsample, block in zip(levels[1:], self.downsample_convs, self.pan_blocks):
            outputs.append(block(torch.cat([downsample(outputs[-1]), coarser], dim=1)))
        return tuple(outputs)

    def switch_to_deploy(self) -> None:
        """Fold norms and RepVGG branches, in place.

        The input projections keep their norms, as in the published deploy form, whose parameter
        count is the reference.
        """
        fuse_all(self.lateral_convs, self.fpn_blocks, self.downsample_convs, self.pan_blocks)
