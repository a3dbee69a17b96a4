# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in files of `transformers`' DFineForObjectDetection, and ours."""

from . import transformers_shared as shared
from .family import Family, under

DFINE_TRANSFORMERS = Family(
    name='D-FINE of transformers',
    layout='transformers',
    placeholders={
        **shared.PLACEHOLDERS,
        'stem': r'stem\w+',
        'unit': r'downsample|blocks\.\d+\.(?:layers\.\d+(?:\.conv[12])?|aggregation\.\d+)',
        'branch': {'csp_rep1': 'branches.0.0', 'csp_rep2': 'branches.1.0'},
        'csp': {'conv1': 'main_conv', 'conv2': 'short_conv'},
        'rep': {'conv1': 'conv3x3', 'conv2': 'conv1x1'},
        'elan': {
            'conv1': 'split_conv',
            'conv2': 'branches.0.1',
            'conv3': 'branches.1.1',
            'conv4': 'final_conv',
        },
        'down': {'conv1': 'pointwise', 'conv2': 'depthwise'},
        'attn': r'sampling_offsets|attention_weights',
        'gate': r'gate|norm',
        'decoder_norm': {'self_attn_layer_norm': 'norm1', 'final_layer_norm': 'norm3'},
        'constant': r'up|reg_scale',
    },
    rules=(
        *under(
            'model.backbone.model.',
            'backbone.',
            ('embedder.{stem}.{layer}.{leaf}', 'stem.{stem}.{layer}.{leaf}'),
            ('encoder.stages.{i}.{unit}.{layer}.{leaf}', 'stages.{i}.{unit}.{layer}.{leaf}'),
        ),
        *under(
            'model.encoder.{fusion}.',
            'neck.{fusion}.',
            ('{elan}.{op}.{leaf}', '{elan}.{op}.{leaf}'),
            ('{branch}.{csp}.{op}.{leaf}', '{branch}.{csp}.{op}.{leaf}'),
            (
                '{branch}.bottlenecks.{i}.{rep}.{op}.{leaf}',
                '{branch}.blocks.{i}.{rep}.{op}.{leaf}',
            ),
        ),
        *under(
            'model.',
            '',
            (
                'encoder.downsample_convs.{i}.{down}.{op}.{leaf}',
                'neck.downsample_convs.{i}.{down}.{op}.{leaf}',
            ),
            ('decoder.pre_bbox_head.{rest}', 'decoder.initial_reg_branch.{rest}'),
            (
                'decoder.lqe_layers.{i}.reg_conf.{rest}',
                'decoder.quality_branches.{i}.mlp.{rest}',
            ),
            (
                'decoder.layers.{i}.gateway.{gate}.{leaf}',
                'decoder.layers.{i}.gateway.{gate}.{leaf}',
            ),
            ('decoder.{constant}', 'decoder.{constant}'),
        ),
        *shared.RULES,
    ),
    dropped=(
        *shared.DROPPED,
        ('model.decoder.layers.{i}.encoder_attn.num_points_scale', 'given by the points per level'),
    ),
    constants=('decoder.up', 'decoder.reg_scale'),
    computed=shared.points_scale('num_points_scale', published_points=((6, 6), (3, 6, 3))),
)
