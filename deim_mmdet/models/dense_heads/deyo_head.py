# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Sequence, Tuple

from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from ..layers.conv import fuse_all
from ..layers.dfl_box_branch import DFLBoxBranch
from ..layers.yolov8_layers import YOLOV8_ACT, YOLOV8_NORM
from .rtdetr_head import RTDETRHead


@MODELS.register_module()
class DEYOHead(RTDETRHead):
    """RT-DETR's matching and losses, and YOLOv8's box branch: its boxes are where the queries begin
    (`DEYO <https://arxiv.org/abs/2402.16370>`_).

    The box branch has the name that it has in :class:`YOLOv8Head`, so its weights load from there.

    Args:
        num_classes (int): Number of classes C.
        in_channels (Sequence[int]): Channels of the levels of the neck, finest first.
        strides (Sequence[int]): Strides of the levels in pixels. Defaults to (8, 16, 32).
        reg_max (int): Bins of each distribution. Defaults to 16.
        norm_cfg (dict): Norm layer of the box branch. Defaults to ``YOLOV8_NORM``.
        act_cfg (dict): Activation of the box branch. Defaults to ``YOLOV8_ACT``.
        loss_cls (dict): Classification loss.
        kwargs: Arguments of :class:`RTDETRHead`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        norm_cfg: dict = YOLOV8_NORM,
        act_cfg: dict = YOLOV8_ACT,
        loss_cls: ConfigType = dict(
            type='FullGradientVarifocalLoss', alpha=0.75, gamma=2.0, loss_weight=1.0
        ),
        **kwargs,
    ):
        super().__init__(num_classes, loss_cls=loss_cls, **kwargs)
        self.box_branch = DFLBoxBranch(in_channels, strides, reg_max, norm_cfg, act_cfg)

    def boxes_of_cells(self, levels: Sequence[Tensor], input_hw: Tuple[int, int]) -> Tensor:
        """The box that each cell predicts.

        Args:
            levels (Sequence[Tensor]): Features, level i of shape (bs, in_channels[i], H_i, W_i).
            input_hw (tuple[int, int]): Height and width of the input in pixels.

        Returns:
            Tensor: Normalised boxes, shape (bs, sum of H_i * W_i, 4), ordered (cx, cy, w, h),
            float32; they may reach beyond the image.
        """
        return self.box_branch.normalized_boxes(self.box_branch(levels), input_hw)

    def switch_to_deploy(self) -> None:
        """Fold the norms of the box branch, in place."""
        fuse_all(self)
