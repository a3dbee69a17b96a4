# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of RT-DETR, RT-DETRv2 and DEIM-RT-DETRv2, and ours.

D-FINE is built on RT-DETRv2: most of its names are these.
"""

from functools import partial

from .constants import anchors_and_scales
from .family import Family, under

PLACEHOLDERS = {
    'op': {'conv': 'conv', 'norm': 'bn'},  # of a convolution block
    'fusion': r'(?:fpn|pan)_blocks\.\d+',
    'rep': {'conv1': 'conv3x3', 'conv2': 'conv1x1'},
    'proj': r'conv|proj|norm',
    'linear': r'linear[12]',
    'norm': r'norm[123]',
}

# fmt: off
# RT-DETR, RT-DETRv2 and D-FINE
SHARED_RULES = (
    *under('backbone.', 'backbone.', ('{rest}', '{rest}')),
    *under(
        'encoder.',
        'neck.',
        ('encoder.{i}.layers.{j}.{rest}', 'transformers.{i}.layers.{j}.{rest}'),
        ('lateral_convs.{i}.{op}.{leaf}', 'lateral_convs.{i}.{op}.{leaf}'),
    ),
    *under(
        'decoder.',
        '',
        ('input_proj.{i}.{proj}.{leaf}', 'memory_projs.{i}.{proj}.{leaf}'),
        ('enc_score_head.{leaf}', 'query_selection.cls_branch.{leaf}'),
        ('enc_bbox_head.{rest}', 'query_selection.reg_branch.{rest}'),
        ('denoising_class_embed.weight', 'denoising.label_embedding.weight'),
    ),
    *under(
        'decoder.',
        'decoder.',
        ('query_pos_head.{rest}', 'query_pos_mlp.{rest}'),
        ('dec_score_head.{i}.{leaf}', 'cls_branches.{i}.{leaf}'),
        ('dec_bbox_head.{i}.{rest}', 'reg_branches.{i}.{rest}'),
    ),
    *under(
        'decoder.decoder.layers.{i}.',
        'decoder.layers.{i}.',
        ('self_attn.{rest}', 'self_attn.{rest}'),
        ('cross_attn.{attn}.{leaf}', 'cross_attn.{attn}.{leaf}'),
        ('{linear}.{leaf}', 'ffn.{linear}.{leaf}'),
        ('{norm}.{leaf}', '{norm}.{leaf}'),
    ),
)
# RT-DETRv2 and D-FINE
V2_RULES = (
    ('encoder.input_proj.{i}.{op}.{leaf}', 'neck.input_projs.{i}.{op}.{leaf}'),
    ('decoder.enc_output.{proj}.{leaf}', 'query_selection.{proj}.{leaf}'),
)
# RT-DETR numbers the same modules
V1_RULES = (
    ('encoder.input_proj.{i}.{conv_bn}.{leaf}', 'neck.input_projs.{i}.{conv_bn}.{leaf}'),
    ('decoder.enc_output.{proj_norm}.{leaf}', 'query_selection.{proj_norm}.{leaf}'),
)
# RT-DETR and RT-DETRv2
FUSION_RULES = (
    *under(
        'encoder.{fusion}.',
        'neck.{fusion}.',
        ('{csp}.{op}.{leaf}', '{csp}.{op}.{leaf}'),
        ('bottlenecks.{i}.{rep}.{op}.{leaf}', 'blocks.{i}.{rep}.{op}.{leaf}'),
    ),
    ('encoder.downsample_convs.{i}.{op}.{leaf}', 'neck.downsample_convs.{i}.{op}.{leaf}'),
)
# RT-DETR, RT-DETRv2 and D-FINE
SHARED_DROPPED = (
    ('decoder.anchors', 'computed from the size of the input'),
    ('decoder.valid_mask', 'computed from the size of the input'),
    ('encoder.pos_embed{leaf}', 'computed from the size of the input'),
    ('decoder.decoder.layers.{i}.cross_attn.num_points_scale', 'given by the points per level'),
)
# fmt: on

_PLACEHOLDERS = {
    **PLACEHOLDERS,
    'csp': {'conv1': 'main_conv', 'conv2': 'short_conv', 'conv3': 'final_conv'},
    'attn': r'sampling_offsets|attention_weights|value_proj|output_proj',
}

RTDETRV2 = Family(
    name='RT-DETRv2 / DEIM-RT-DETRv2',
    placeholders=_PLACEHOLDERS,
    rules=(*SHARED_RULES, *V2_RULES, *FUSION_RULES),
    dropped=SHARED_DROPPED,
    computed=partial(anchors_and_scales, published_points=((4, 4, 4),)),
)

RTDETR = Family(
    name='RT-DETR',
    placeholders={
        **_PLACEHOLDERS,
        'conv_bn': {'0': 'conv', '1': 'bn'},
        'proj_norm': {'0': 'proj', '1': 'norm'},
    },
    rules=(*SHARED_RULES, *V1_RULES, *FUSION_RULES),
    dropped=SHARED_DROPPED,
)
