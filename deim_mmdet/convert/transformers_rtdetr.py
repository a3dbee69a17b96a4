# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in files of `transformers`' RTDetrForObjectDetection and RTDetrV2ForObjectDetection, and
ours.
"""

from dataclasses import replace

from . import transformers_shared as shared
from .family import Family, under

RTDETR_TRANSFORMERS = Family(
    name='RT-DETR of transformers',
    layout='transformers',
    placeholders={
        **shared.PLACEHOLDERS,
        'stem': {'0': 'conv1_1', '1': 'conv1_2', '2': 'conv1_3'},
        'conv': {'convolution': 'conv', 'normalization': 'norm'},
        'unit': {'0': 'branch2a', '1': 'branch2b', '2': 'branch2c'},
        # the first one is behind an average pooling
        'short': {'shortcut.1': 'short.conv', 'shortcut': 'short'},
        'csp': {'conv1': 'main_conv', 'conv2': 'short_conv', 'conv3': 'final_conv'},
        'rep': {'conv1': 'conv3x3', 'conv2': 'conv1x1'},
        'attn': r'sampling_offsets|attention_weights|value_proj|output_proj',
        'decoder_norm': {
            'self_attn_layer_norm': 'norm1',
            'encoder_attn_layer_norm': 'norm2',
            'final_layer_norm': 'norm3',
        },
    },
    rules=(
        (
            'model.backbone.model.embedder.embedder.{stem}.{conv}.{leaf}',
            'backbone.conv1.{stem}.{conv}.{leaf}',
        ),
        *under(
            'model.backbone.model.encoder.stages.{i}.layers.{j}.',
            'backbone.res_layers.{i}.blocks.{j}.',
            ('layer.{unit}.{conv}.{leaf}', '{unit}.{conv}.{leaf}'),
            ('{short}.{conv}.{leaf}', '{short}.{conv}.{leaf}'),
        ),
        *under(
            'model.encoder.',
            'neck.',
            ('downsample_convs.{i}.{op}.{leaf}', 'downsample_convs.{i}.{op}.{leaf}'),
            ('{fusion}.{csp}.{op}.{leaf}', '{fusion}.{csp}.{op}.{leaf}'),
            ('{fusion}.bottlenecks.{i}.{rep}.{op}.{leaf}', '{fusion}.blocks.{i}.{rep}.{op}.{leaf}'),
        ),
        *shared.RULES,
    ),
    dropped=shared.DROPPED,
)

# The second version samples otherwise; one constant more says so.
RTDETRV2_TRANSFORMERS = replace(
    RTDETR_TRANSFORMERS,
    name='RT-DETRv2 of transformers',
    dropped=(
        *shared.DROPPED,
        ('model.decoder.layers.{i}.encoder_attn.n_points_scale', 'given by the points per level'),
    ),
    computed=shared.points_scale('n_points_scale', published_points=((4, 4, 4),)),
)
