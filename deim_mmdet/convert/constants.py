# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Tensors of published checkpoints that are computed, not learned."""

from typing import Dict, Mapping, Sequence, Tuple

import torch
from torch import Tensor

from deim_mmdet.models.layers.query_selection import grid_anchors

from .family import PublishedForm

STEM_STRIDE = 4  # of HGNetv2 and PResNet, whose stages halve the size from the second on
BACKBONE_STAGES = ('backbone.stages.', 'backbone.res_layers.')


def anchors_and_scales(
    weights: Mapping[str, Tensor],
    form: PublishedForm,
    published_points: Sequence[Tuple[int, ...]],
) -> Dict[str, Tensor]:
    """Anchors of the input size, and what divides the sampling offsets of every decoder layer.

    Args:
        weights (Mapping): Weights under our names.
        form (PublishedForm): Size of the input, and points per level where they are not those of
            the published models.
        published_points (Sequence[tuple]): Points per level of the published models, one entry
            per number of levels.

    Returns:
        dict[str, Tensor]: By published name.

    Raises:
        ValueError: The weights have other sampling points, or are not those of a whole detector.
    """
    num_levels = len({key.split('.')[2] for key in weights if key.startswith('neck.input_projs.')})
    stages = {int(key.split('.')[2]) for key in weights if key.startswith(BACKBONE_STAGES)}
    if not num_levels or not stages:
        raise ValueError(
            f'Backbone or neck is missing among the {len(weights)} weights: give the checkpoint of '
            'a whole detector.'
        )
    points = form.points_per_level or next(
        (row for row in published_points if len(row) == num_levels), ()
    )
    tensors = {}
    layers = [key for key in weights if key.endswith('cross_attn.attention_weights.bias')]
    for index, key in enumerate(layers):
        if len(points) != num_levels or len(weights[key]) % sum(points):
            raise ValueError(
                f'{key} has {len(weights[key])} values, which does not go with {tuple(points)} '
                f'sampling points on {num_levels} levels: name the config of the model, its '
                'decoder says `points_per_level`.'
            )
        scale = torch.tensor([1 / n for n in points for _ in range(n)])
        tensors[f'decoder.decoder.layers.{index}.cross_attn.num_points_scale'] = scale
    # the encoder takes the last stages
    strides = [STEM_STRIDE << max(stages) - level for level in reversed(range(num_levels))]
    shapes = tuple(tuple(side // stride for side in form.input_hw) for stride in strides)
    anchors, valid = grid_anchors(shapes, torch.device('cpu'))
    tensors['decoder.anchors'], tensors['decoder.valid_mask'] = anchors.clone(), valid.clone()
    return tensors
