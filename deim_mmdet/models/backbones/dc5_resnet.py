# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn as nn
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS


@MODELS.register_module()
class DC5ResNet(ResNet):
    """ResNet whose last stage dilates its convolutions in place of its stride, as in DETR's DC5.

    Law: at every second row and column it gives what ``ResNet`` gives with the same weights, so
    ImageNet weights mean what they meant.

    Differs from ``ResNet(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))``, for which the law does
    not hold: there the first convolution of the stage is dilated as well, although its input has
    the resolution that it had.

    Args:
        depth (int): 50, 101 or 152.
        **kwargs: Other arguments of ``ResNet``, without ``strides`` and ``dilations``.

    Raises:
        ValueError: ``depth`` of a network of basic blocks, where the law would not hold.
    """

    def __init__(self, depth: int, **kwargs) -> None:
        if depth not in (50, 101, 152):
            raise ValueError(
                f'DC5ResNet is made of bottlenecks: depth must be 50, 101 or 152, got {depth}.'
            )
        super().__init__(depth, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **kwargs)

    def make_res_layer(self, **kwargs) -> nn.Sequential:
        """The dilation of a stage begins with its second block."""
        stage = super().make_res_layer(**kwargs)
        for layer in stage[0].modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (1, 1)
        return stage
