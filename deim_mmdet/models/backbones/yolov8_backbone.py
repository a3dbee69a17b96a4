# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from collections import OrderedDict
from typing import Optional, Sequence, Union

import torch.nn as nn
from mmdet.registry import MODELS

from ..layers.conv import ConvNormAct
from ..layers.yolov8_layers import SPPF, YOLOV8_ACT, YOLOV8_NORM, C2f
from .staged_backbone import StagedBackbone, check_stages

# depth  factor of the number of blocks of each stage
# width  factor of the channels
# most   channels before the factor, at the most
# fmt: off
SIZES = {
    #     depth width  most
    'n': (0.33, 0.25, 1024),
    's': (0.33, 0.50, 1024),
    'm': (0.67, 0.75,  768),
    'l': (1.00, 1.00,  512),
    'x': (1.00, 1.25,  512),
}
# fmt: on
STEM_CHANNELS = 64
STAGE_CHANNELS = (128, 256, 512, 1024)
STAGE_BLOCKS = (3, 6, 6, 3)


@MODELS.register_module()
class YOLOv8Backbone(StagedBackbone):
    """Backbone of YOLOv8 and DEYO (`arXiv:2402.16370 <https://arxiv.org/abs/2402.16370>`_).

    A 3x3 convolution of stride 2, then four stages of one more and a :class:`C2f`; :class:`SPPF`
    at the end of the last.

    Args:
        size (str | Sequence[float]): 'n', 's', 'm', 'l' or 'x', or a size of your own as (depth,
            width, most channels), see ``SIZES``. Defaults to 'n'.
        out_indices (Sequence[int]): Stages whose output is returned; stage i has stride
            ``4 * 2 ** i``. Defaults to (1, 2, 3).
        in_channels (int): Channels of the image. Defaults to 3.
        frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and the first n stages:
            no gradients, norms in evaluation mode. Defaults to -1.
        freeze_norm (bool): Replace every batch norm by fixed statistics and affine, which are
            buffers and no parameters. Defaults to False.
        norm_cfg (dict): Norm layer. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation. Defaults to ``YOLOV8_ACT``.
        init_cfg (dict, optional): Initialisation. Defaults to None: PyTorch's.

    Raises:
        ValueError: Unknown ``size``, or ``out_indices`` or ``frozen_stages`` out of range.

    Attributes:
        out_channels (tuple[int]): Channels of the returned levels.
        out_strides (tuple[int]): Strides of the returned levels.
    """

    def __init__(
        self,
        size: Union[str, Sequence[float]] = 'n',
        out_indices: Sequence[int] = (1, 2, 3),
        in_channels: int = 3,
        frozen_stages: int = -1,
        freeze_norm: bool = False,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        depth, width, most = _size(size)
        check_stages(len(STAGE_CHANNELS), out_indices, frozen_stages)
        channels = [round(width * min(c, most)) for c in (STEM_CHANNELS, *STAGE_CHANNELS)]
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)

        self.stem = ConvNormAct(in_channels, channels[0], 3, stride=2, **cfg)
        self.stages = nn.ModuleList()
        for before, after, blocks in zip(channels, channels[1:], STAGE_BLOCKS):
            stage = OrderedDict(
                downsample=ConvNormAct(before, after, 3, stride=2, **cfg),
                csp=C2f(after, after, max(1, round(depth * blocks)), shortcut=True, **cfg),
            )
            self.stages.append(nn.Sequential(stage))
        self.stages[-1].add_module('spp', SPPF(channels[-1], channels[-1], **cfg))
        self.finish(channels[1:], (4, 8, 16, 32), out_indices, frozen_stages, freeze_norm)

    def stem_and_stages(self) -> Sequence[nn.Module]:
        return [self.stem, *self.stages]


def _size(size: Union[str, Sequence[float]]) -> Sequence[float]:
    found = SIZES.get(size) if isinstance(size, str) else tuple(size)
    if found is None or len(found) != 3:
        raise ValueError(
            f'YOLOv8Backbone has no size {size!r}: take one of {", ".join(SIZES)}, or three '
            'numbers: depth, width, most channels.'
        )
    return found
