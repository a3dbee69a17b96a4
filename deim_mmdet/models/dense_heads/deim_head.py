# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.registry import MODELS
from mmdet.utils import ConfigType

from deim_mmdet.models.dense_heads.dfine_head import DFINEHead


@MODELS.register_module()
class DEIMHead(DFINEHead):
    """D-FINE's head with the Matchability-Aware Loss (DEIM, 2412.04234, equation 2).

    Args:
        num_classes (int): Number of classes C.
        loss_cls (dict): Classification loss.
        kwargs: Arguments of :class:`DFINEHead`.
    """

    def __init__(
        self,
        num_classes: int,
        loss_cls: ConfigType = dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
        **kwargs,
    ):
        # NOTE only the classification loss differs: a match of low IoU still counts fully
        super().__init__(num_classes, loss_cls=loss_cls, **kwargs)
