# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ..layers.conv import ConvNormAct, fuse_all
from ..layers.yolov8_layers import YOLOV8_ACT, YOLOV8_NORM, C2f
from .levels import check_levels


@MODELS.register_module()
class YOLOv8PAFPN(BaseModule):
    """Path aggregation of YOLOv8: top-down, then bottom-up, a :class:`C2f` at every step.

    Every level keeps the number of channels that the backbone gives it.

    Args:
        in_channels (Sequence[int]): Channels of the levels of the backbone, finest first. Each
            level is half the size of the one before.
        num_blocks (int): Blocks of each :class:`C2f`, without shortcut. Defaults to 1, as in n and
            s; 2 in m, 3 in l and x.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.
        init_cfg (dict, optional): Initialisation. Defaults to None: PyTorch's.

    Raises:
        ValueError: In ``forward``, levels that do not fit ``in_channels`` or are not half the size
            of each other.

    Attributes:
        out_channels (tuple[int]): Channels of the levels, ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_blocks: int = 1,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = self.out_channels = tuple(in_channels)
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        pairs = list(zip(self.in_channels, self.in_channels[1:]))  # (finer, coarser)
        self.fpn_blocks = nn.ModuleList(  # coarsest first, the order they run in
            C2f(coarser + finer, finer, num_blocks, **cfg) for finer, coarser in pairs[::-1]
        )
        self.downsample_convs = nn.ModuleList(
            ConvNormAct(finer, finer, 3, stride=2, **cfg) for finer, _ in pairs
        )
        self.pan_blocks = nn.ModuleList(
            C2f(finer + coarser, coarser, num_blocks, **cfg) for finer, coarser in pairs
        )

    def forward(self, levels: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Fuse the levels of the backbone.

        Args:
            levels (Sequence[Tensor]): Finest first, level i of shape (bs, in_channels[i], H / 2^i,
                W / 2^i).

        Returns:
            tuple[Tensor]: As many levels, of the same shapes.
        """
        check_levels(levels, self.in_channels)
        fused = [levels[-1]]  # coarsest first
        for finer, block in zip(levels[-2::-1], self.fpn_blocks):
            upsampled = F.interpolate(fused[-1], scale_factor=2.0, mode='nearest')
            fused.append(block(torch.cat([upsampled, finer], dim=1)))
        outputs = [fused.pop()]
        for downsample, block in zip(self.downsample_convs, self.pan_blocks):
            outputs.append(block(torch.cat([downsample(outputs[-1]), fused.pop()], dim=1)))
        return tuple(outputs)

    def switch_to_deploy(self) -> None:
        """Fold the norms, in place."""
        fuse_all(self)
