# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of D-FINE and DEIM-D-FINE, and ours: those of RT-DETRv2, and
what D-FINE adds."""

from typing import Dict, Mapping

import torch
from torch import Tensor

from .constants import anchors_and_scales
from .family import Family, PublishedForm, under
from .rtdetr import PLACEHOLDERS, SHARED_DROPPED, SHARED_RULES, V2_RULES


def computed(weights: Mapping[str, Tensor], form: PublishedForm) -> Dict[str, Tensor]:
    """Tensors of a published checkpoint that are not learned, see :class:`Family`."""
    tensors = anchors_and_scales(weights, form, published_points=((6, 6), (3, 6, 3)))
    reg_scale = weights.get('decoder.reg_scale')
    if reg_scale is not None and reg_scale == reg_scale.round():  # published as integers
        reg_scale = reg_scale.to(torch.int64)
        tensors['decoder.reg_scale'] = tensors['decoder.decoder.reg_scale'] = reg_scale
    return tensors


DFINE = Family(
    name='D-FINE / DEIM-D-FINE',
    placeholders={
        **PLACEHOLDERS,
        'branch': {'cv2': 'branches.0', 'cv3': 'branches.1'},
        'csp': {'conv1': 'main_conv', 'conv2': 'short_conv'},
        'down': {'cv1': 'pointwise', 'cv2': 'depthwise'},
        'attn': r'sampling_offsets|attention_weights',
        'gate': r'gate|norm',
        'norm': r'norm[13]',
        'constant': r'up|reg_scale',
    },
    # fmt: off
    rules=(
        *SHARED_RULES,
        *V2_RULES,
        *under(
            'encoder.{fusion}.',
            'neck.{fusion}.',
            ('cv1.{op}.{leaf}', 'split_conv.{op}.{leaf}'),
            ('{branch}.0.{csp}.{op}.{leaf}', '{branch}.0.{csp}.{op}.{leaf}'),
            (
                '{branch}.0.bottlenecks.{i}.{rep}.{op}.{leaf}',
                '{branch}.0.blocks.{i}.{rep}.{op}.{leaf}',
            ),
            ('{branch}.1.{op}.{leaf}', '{branch}.1.{op}.{leaf}'),
            ('cv4.{op}.{leaf}', 'final_conv.{op}.{leaf}'),
        ),
        (
            'encoder.downsample_convs.{i}.0.{down}.{op}.{leaf}',
            'neck.downsample_convs.{i}.{down}.{op}.{leaf}',
        ),
        *under(
            'decoder.',
            'decoder.',
            ('pre_bbox_head.{rest}', 'initial_reg_branch.{rest}'),
            ('decoder.lqe_layers.{i}.reg_conf.{rest}', 'quality_branches.{i}.mlp.{rest}'),
            (
                'decoder.layers.{i}.gateway.{gate}.{leaf}',
                'layers.{i}.gateway.{gate}.{leaf}',
            ),
            ('decoder.{constant}', '{constant}'),
        ),
    ),
    copies=(('decoder.{constant}', 'decoder.decoder.{constant}'),),
    dropped=(
        *SHARED_DROPPED,
        ('decoder.decoder.project', 'given by up and reg_scale'),
    ),
    # fmt: on
    constants=('decoder.up', 'decoder.reg_scale'),
    computed=computed,
)
