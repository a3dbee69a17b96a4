# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List

import torch.nn as nn
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from deim_mmdet.models.detectors.rtdetr import RTDETR


@MODELS.register_module()
class DFINE(RTDETR):
    """D-FINE: RT-DETR with boxes as edge distributions (2410.13842); DEIM trains the same model
    (2412.04234).

    ``reg_max``, ``reg_scale`` and ``up`` are stated once, in ``decoder``.

    Args:
        decoder (dict): Decoder config.
        bbox_head (dict): Head config.
        kwargs: Arguments of :class:`RTDETR`.
    """

    def __init__(self, decoder: ConfigType, bbox_head: ConfigType, **kwargs):
        distances = {key: decoder[key] for key in ('reg_max', 'reg_scale', 'up') if key in decoder}
        super().__init__(decoder=decoder, bbox_head=dict(bbox_head, **distances), **kwargs)
        self._register_load_state_dict_pre_hook(refuse_other_distances, with_module=True)

    def build_memory_projs(self, in_channels: List[int], embed_dims: int) -> nn.ModuleList:
        # NOTE a level that has the decoder's channels already is not projected
        projs = super().build_memory_projs(in_channels, embed_dims)
        return nn.ModuleList(
            nn.Identity() if c == embed_dims else proj for c, proj in zip(in_channels, projs)
        )


def refuse_other_distances(module: nn.Module, state_dict: Dict[str, Tensor], prefix: str, *args):
    """Stop when a checkpoint measures edge distances in another unit: its boxes would silently be
    wrong.

    Raises:
        ValueError: If ``decoder.reg_scale`` or ``decoder.up`` differs from the model's.
    """
    for name in ('reg_scale', 'up'):
        value = state_dict.get(f'{prefix}decoder.{name}')
        own = getattr(module.decoder, name, None)
        if value is not None and own is not None and float(value) != float(own):
            raise ValueError(
                f'the checkpoint was trained with {name}={float(value):g}, the config says '
                f'{float(own):g}; set model.decoder.{name}={float(value):g}'
            )
