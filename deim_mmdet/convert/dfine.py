# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of D-FINE and DEIM-D-FINE, and ours."""

from typing import Dict, Mapping

import torch
from torch import Tensor

from .constants import anchors_and_scales
from .family import Family, PublishedForm, under


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
        'op': {'conv': 'conv', 'norm': 'bn'},  # of a convolution block
        'fusion': r'(?:fpn|pan)_blocks\.\d+',
        'branch': {'cv2': 'branches.0', 'cv3': 'branches.1'},
        'csp': {'conv1': 'main_conv', 'conv2': 'short_conv'},
        'rep': {'conv1': 'conv3x3', 'conv2': 'conv1x1'},
        'down': {'cv1': 'pointwise', 'cv2': 'depthwise'},
        'proj': r'conv|proj|norm',
        'attn': r'sampling_offsets|attention_weights',
        'gate': r'gate|norm',
        'linear': r'linear[12]',
        'norm': r'norm[13]',
        'constant': r'up|reg_scale',
    },
    # fmt: off
    rules=(
        *under('backbone.', 'backbone.', ('{rest}', '{rest}')),
        *under(
            'encoder.',
            'neck.',
            ('input_proj.{i}.{op}.{leaf}', 'input_projs.{i}.{op}.{leaf}'),
            ('encoder.{i}.layers.{j}.{rest}', 'transformers.{i}.layers.{j}.{rest}'),
            ('lateral_convs.{i}.{op}.{leaf}', 'lateral_convs.{i}.{op}.{leaf}'),
            (
                'downsample_convs.{i}.0.{down}.{op}.{leaf}',
                'downsample_convs.{i}.{down}.{op}.{leaf}',
            ),
        ),
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
        *under(
            'decoder.',
            '',
            ('input_proj.{i}.{proj}.{leaf}', 'memory_projs.{i}.{proj}.{leaf}'),  # X only
            ('enc_output.{proj}.{leaf}', 'query_selection.{proj}.{leaf}'),
            ('enc_score_head.{leaf}', 'query_selection.cls_branch.{leaf}'),
            ('enc_bbox_head.{rest}', 'query_selection.reg_branch.{rest}'),
            ('denoising_class_embed.weight', 'denoising.label_embedding.weight'),
        ),
        *under(
            'decoder.',
            'decoder.',
            ('query_pos_head.{rest}', 'query_pos_mlp.{rest}'),
            ('pre_bbox_head.{rest}', 'initial_reg_branch.{rest}'),
            ('dec_score_head.{i}.{leaf}', 'cls_branches.{i}.{leaf}'),
            ('dec_bbox_head.{i}.{rest}', 'reg_branches.{i}.{rest}'),
            ('decoder.lqe_layers.{i}.reg_conf.{rest}', 'quality_branches.{i}.mlp.{rest}'),
            ('decoder.{constant}', '{constant}'),
        ),
        *under(
            'decoder.decoder.layers.{i}.',
            'decoder.layers.{i}.',
            ('self_attn.{rest}', 'self_attn.{rest}'),
            ('cross_attn.{attn}.{leaf}', 'cross_attn.{attn}.{leaf}'),
            ('gateway.{gate}.{leaf}', 'gateway.{gate}.{leaf}'),
            ('{linear}.{leaf}', 'ffn.{linear}.{leaf}'),
            ('{norm}.{leaf}', '{norm}.{leaf}'),
        ),
    ),
    copies=(('decoder.{constant}', 'decoder.decoder.{constant}'),),
    dropped=(
        ('decoder.anchors', 'computed from the size of the input'),
        ('decoder.valid_mask', 'computed from the size of the input'),
        ('encoder.pos_embed{leaf}', 'computed from the size of the input'),
        ('decoder.decoder.layers.{i}.cross_attn.num_points_scale', 'given by the points per level'),
        ('decoder.decoder.project', 'given by up and reg_scale'),
    ),
    # fmt: on
    constants=('decoder.up', 'decoder.reg_scale'),
    computed=computed,
)
