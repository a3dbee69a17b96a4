# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The weights that the second stage of DEYO takes from its first, a YOLOv8."""

import logging
from typing import Any, Dict, Mapping, Optional

import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from deim_mmdet.models.backbones.yolov8_backbone import SIZES, STAGE_CHANNELS

from .state_dict import COUNTER, convert_state_dict, is_published

CLASS_BRANCH = ('bbox_head.cls_convs.', 'bbox_head.cls_branches.')
# of the two stages: what makes weights those of the first, and those of the second
FIRST, SECOND = 'bbox_head.cls_branches.0.weight', 'decoder.'


def take_stage_one(module: nn.Module, state_dict: Dict[str, Any]) -> None:
    """Replace the weights of a YOLOv8 by those of a DEYO that begins with them, in place.

    Backbone, neck and box branch are taken, the class branch is left out, and the rest keeps the
    values that it has. Weights of a DEYO, published or ours, are left alone.

    Args:
        module (nn.Module): The DEYO that loads them.
        state_dict (dict): Weights under our names or under published ones.

    Raises:
        ValueError: These are the weights of neither, or of a YOLOv8 of another size or number of
            classes; the message names both.
    """
    weights: Mapping[str, Tensor] = state_dict
    if is_published(state_dict):
        weights = convert_state_dict(state_dict)[0]
    if any(key.startswith(SECOND) for key in weights):
        return
    own = module.state_dict()
    taken = {key: own[key] for key in own if is_of_stage_one(key)}
    missing = [key for key in taken if key not in weights and not key.endswith(COUNTER)]
    if FIRST not in weights or not any(key in weights for key in taken):
        raise ValueError(
            'DEYO begins with the weights of a YOLOv8 (backbone, neck, box and class branch), or '
            f'goes on with those of a DEYO; this checkpoint has {", ".join(parts_of(weights))}. '
            'Train configs/yolov8 of the same size first and set load_from to its checkpoint.'
        )
    unused = [k for k in weights if k not in own and not k.startswith(CLASS_BRANCH)]
    shapes = [key for key in taken if key in weights and weights[key].shape != own[key].shape]
    if missing or unused or shapes:
        raise ValueError(
            f'The YOLOv8 of the checkpoint is {describe_size(weights)}, that of the model is '
            f'{describe_size(own)}: {len(missing)} tensors are missing, {len(unused)} are not in '
            f'the model, {len(shapes)} have another shape, first {(missing + unused + shapes)[0]}. '
            'Take the checkpoint of a YOLOv8 of the same size, or the config of the other size.'
        )
    theirs, ours = len(weights[FIRST]), module.bbox_head.num_classes
    if theirs != ours:
        raise ValueError(
            f'The YOLOv8 of the checkpoint has {theirs} classes, the model has {ours}. The frozen '
            'part never adapts to other data: train the first stage on them (load_from takes the '
            f'checkpoint of {theirs} classes there) and begin with its result, or set num_classes.'
        )
    complete = {key: weights.get(key, value) for key, value in own.items()}
    state_dict.clear()
    state_dict.update(complete)
    print_log(
        f'First stage: {len(taken)} tensors of backbone, neck and box branch of a YOLOv8; the '
        'decoder begins from scratch.',
        logger='current',
        level=logging.INFO,
    )


def is_stage_one(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights under our names are those of a YOLOv8."""
    return FIRST in weights and not any(key.startswith(SECOND) for key in weights)


def is_of_stage_one(key: str) -> bool:
    """Whether both stages have the tensor."""
    return key.startswith(('backbone.', 'neck.', 'bbox_head.box_branch.'))


def parts_of(weights: Mapping[str, Tensor]) -> list:
    """First words of the names."""
    return sorted({key.partition('.')[0] for key in weights}) or ['nothing']


def describe_size(weights: Mapping[str, Tensor]) -> str:
    """The size of a YOLOv8 by its name, or by its channels where it has none."""
    channels = channels_of(weights)
    for name, (_, width, most) in SIZES.items():
        if channels == [round(width * min(c, most)) for c in STAGE_CHANNELS]:
            return f'YOLOv8-{name.upper()}'
    return f'one with stages of {channels} channels'


def channels_of(weights: Mapping[str, Tensor]) -> Optional[list]:
    """Output channels of the stages of the backbone."""
    names = [f'backbone.stages.{i}.downsample.conv.weight' for i in range(4)]
    return [len(weights[name]) if name in weights else 0 for name in names]
