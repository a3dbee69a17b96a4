# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names that the models of Hugging Face `transformers` share, as they stand in files, and ours.

transformers 5 calls some modules otherwise (``mlp.fc1``, ``o_proj``, ``aifi``), yet reads and
writes these names.
"""

from typing import Callable, Dict, Mapping, Sequence, Tuple

from torch import Tensor

from .constants import anchors_and_scales
from .family import PublishedForm, under

# Self-attention: three matrices in a file, one here.
ATTENTION = (
    (
        (
            'self_attn.q_proj.{leaf}',
            'self_attn.k_proj.{leaf}',
            'self_attn.v_proj.{leaf}',
        ),
        'self_attn.in_proj_{leaf}',
    ),
    ('self_attn.out_proj.{leaf}', 'self_attn.out_proj.{leaf}'),
)

PLACEHOLDERS = {
    'op': {'conv': 'conv', 'norm': 'bn'},  # of a convolution block
    'layer': {'convolution': 'conv', 'normalization': 'bn', 'lab': 'lab'},  # of a backbone's block
    'input': {'0': 'conv', '1': 'bn'},
    'memory': {'0': 'conv', '1': 'norm'},
    'selection': {'0': 'proj', '1': 'norm'},
    'fusion': r'(?:fpn|pan)_blocks\.\d+',
    'fc': {'fc1': 'linear1', 'fc2': 'linear2'},
    'encoder_norm': {'self_attn_layer_norm': 'norm1', 'final_layer_norm': 'norm2'},
}

RULES = (
    *under(
        'model.',
        'neck.',
        ('encoder_input_proj.{i}.{input}.{leaf}', 'input_projs.{i}.{input}.{leaf}'),
        ('encoder.lateral_convs.{i}.{op}.{leaf}', 'lateral_convs.{i}.{op}.{leaf}'),
    ),
    *under(
        'model.encoder.encoder.{i}.layers.{j}.',
        'neck.transformers.{i}.layers.{j}.',
        *ATTENTION,
        ('{fc}.{leaf}', '{fc}.{leaf}'),
        ('{encoder_norm}.{leaf}', '{encoder_norm}.{leaf}'),
    ),
    *under(
        'model.',
        '',
        ('decoder_input_proj.{i}.{memory}.{leaf}', 'memory_projs.{i}.{memory}.{leaf}'),
        ('enc_output.{selection}.{leaf}', 'query_selection.{selection}.{leaf}'),
        ('enc_score_head.{leaf}', 'query_selection.cls_branch.{leaf}'),
        ('enc_bbox_head.{rest}', 'query_selection.reg_branch.{rest}'),
        ('denoising_class_embed.weight', 'denoising.label_embedding.weight'),
    ),
    *under(
        'model.decoder.',
        'decoder.',
        ('query_pos_head.{rest}', 'query_pos_mlp.{rest}'),
        ('class_embed.{i}.{leaf}', 'cls_branches.{i}.{leaf}'),
        ('bbox_embed.{i}.{rest}', 'reg_branches.{i}.{rest}'),
    ),
    *under(
        'model.decoder.layers.{i}.',
        'decoder.layers.{i}.',
        *ATTENTION,
        ('encoder_attn.{attn}.{leaf}', 'cross_attn.{attn}.{leaf}'),
        ('{fc}.{leaf}', 'ffn.{fc}.{leaf}'),
        ('{decoder_norm}.{leaf}', '{decoder_norm}.{leaf}'),
    ),
)

DROPPED = (
    ('class_embed.{rest}', 'second copy of the one in model.decoder'),
    ('bbox_embed.{rest}', 'second copy of the one in model.decoder'),
)


def points_scale(
    name: str, published_points: Sequence[Tuple[int, ...]]
) -> Callable[[Mapping[str, Tensor], PublishedForm], Dict[str, Tensor]]:
    """What computes the constant ``name`` of every cross-attention, see :class:`Family`."""

    def compute(weights: Mapping[str, Tensor], form: PublishedForm) -> Dict[str, Tensor]:
        tensors = anchors_and_scales(weights, form, published_points)
        scales = [scale for key, scale in tensors.items() if key.endswith('num_points_scale')]
        return {
            f'model.decoder.layers.{index}.encoder_attn.{name}': scale
            for index, scale in enumerate(scales)
        }

    return compute
