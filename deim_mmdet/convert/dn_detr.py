# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of DN-DETR and DN-Deformable-DETR, and ours."""

from .family import Family, under

# fmt: off
# both models
SHARED_RULES = (
    ('backbone.0.body.{rest}', 'backbone.{rest}'),
    ('label_enc.weight', 'denoising.label_embedding.weight'),
    ('refpoint_embed.weight', 'query_embedding.weight'),
    *under(
        'transformer.encoder.layers.{i}.',
        'encoder.layers.{i}.',
        ('linear1.{leaf}', 'ffn.layers.0.0.{leaf}'),
        ('linear2.{leaf}', 'ffn.layers.1.{leaf}'),
        ('{encoder_norm}.{leaf}', 'norms.{encoder_norm}.{leaf}'),
    ),
    *under(
        'transformer.decoder.',
        'decoder.',
        ('layers.{i}.linear1.{leaf}', 'layers.{i}.ffn.layers.0.0.{leaf}'),
        ('layers.{i}.linear2.{leaf}', 'layers.{i}.ffn.layers.1.{leaf}'),
        ('layers.{i}.{decoder_norm}.{leaf}', 'layers.{i}.norms.{decoder_norm}.{leaf}'),
        ('{head}.layers.{i}.{leaf}', '{head}.layers.{i}.{leaf}'),
    ),
)
DN_DETR_RULES = (
    ('input_proj.{leaf}', 'neck.convs.0.conv.{leaf}'),
    ('transformer.patterns.weight', 'patterns.weight'),
    ('class_embed.{leaf}', 'bbox_head.fc_cls.{leaf}'),
    ('bbox_embed.layers.{i}.{leaf}', 'bbox_head.fc_reg.layers.{i}.{leaf}'),
    *under(
        'transformer.encoder.',
        'encoder.',
        ('layers.{i}.self_attn.{rest}', 'layers.{i}.self_attn.attn.{rest}'),
        ('layers.{i}.activation.weight', 'layers.{i}.ffn.layers.0.1.weight'),
        ('query_scale.layers.{i}.{leaf}', 'query_scale.layers.{i}.{leaf}'),
    ),
    *under(
        'transformer.decoder.',
        'decoder.',
        ('layers.{i}.{attn}{proj}.{leaf}', 'layers.{i}.{attn}{proj}.{leaf}'),
        ('layers.{i}.{out_attn}.out_proj.{leaf}', 'layers.{i}.{out_attn}.out_proj.{leaf}'),
        ('layers.{i}.activation.weight', 'layers.{i}.ffn.layers.0.1.weight'),
        ('norm.{leaf}', 'post_norm.{leaf}'),
    ),
)
DN_DEFORMABLE_DETR_RULES = (
    ('input_proj.{level}.{conv_norm}.{leaf}', 'neck.{level}.{conv_norm}.{leaf}'),
    ('class_embed.{i}.{leaf}', 'bbox_head.cls_branches.{i}.{leaf}'),
    ('bbox_embed.{i}.layers.{linear}.{leaf}', 'bbox_head.reg_branches.{i}.{linear}.{leaf}'),
    ('tgt_embed.weight', 'content_embedding.weight'),
    ('transformer.level_embed', 'level_embed'),
    ('transformer.encoder.layers.{i}.self_attn.{rest}', 'encoder.layers.{i}.self_attn.{rest}'),
    *under(
        'transformer.decoder.layers.{i}.',
        'decoder.layers.{i}.',
        ('self_attn.{rest}', 'self_attn.attn.{rest}'),
        ('cross_attn.{rest}', 'cross_attn.{rest}'),
    ),
)
# the decoder holds the box branches, too
COPIES = (('transformer.decoder.bbox_embed.{rest}', 'bbox_embed.{rest}'),)
# the norms of published backbones are frozen, and do not count
UNPUBLISHED = ('backbone.{rest}.num_batches_tracked',)
# fmt: on

_PLACEHOLDERS = {
    'encoder_norm': {'norm1': '0', 'norm2': '1'},
    'head': r'query_scale|ref_point_head|ref_anchor_head',
}

DN_DETR = Family(
    name='DN-DETR',
    placeholders={
        **_PLACEHOLDERS,
        'decoder_norm': {'norm1': '0', 'norm2': '1', 'norm3': '2'},
        'attn': {'sa_': 'self_attn.', 'ca_': 'cross_attn.'},
        'proj': r'[qk](?:content|pos|pos_sine)_proj|v_proj',
        'out_attn': r'self_attn|cross_attn',
    },
    rules=(*SHARED_RULES, *DN_DETR_RULES),
    copies=COPIES,
    unpublished=UNPUBLISHED,
)

DN_DEFORMABLE_DETR = Family(
    name='DN-Deformable-DETR',
    placeholders={
        **_PLACEHOLDERS,
        # published by the order of the attentions in the code, not of their use
        'decoder_norm': {'norm2': '0', 'norm1': '1', 'norm3': '2'},
        'conv_norm': {'0': 'conv', '1': 'gn'},
        'level': {'0': 'convs.0', '1': 'convs.1', '2': 'convs.2', '3': 'extra_convs.0'},
        'linear': {'0': '0', '1': '2', '2': '4'},  # activations are numbered, too
    },
    rules=(*SHARED_RULES, *DN_DEFORMABLE_DETR_RULES),
    copies=COPIES,
    unpublished=UNPUBLISHED,
)
