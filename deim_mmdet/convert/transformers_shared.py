# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What D-FINE and RT-DETR have in common in Hugging Face `transformers`, and our names.

Where two of their names stand for one of ours, the first is the one in files (the hub's, and what
every version saves), the second the one of the modules of transformers 5.
"""

from .family import under

PLACEHOLDERS = {
    'op': {'conv': 'conv', 'norm': 'bn'},  # of a convolution block
    'hgop': {'convolution': 'conv', 'normalization': 'bn', 'lab': 'lab'},
    'input': {'0': 'conv', '1': 'bn'},
    'memory': {'0': 'conv', '1': 'norm'},
    'selection': {'0': 'proj', '1': 'norm'},
    'fusion': r'(?:fpn|pan)_blocks\.\d+',
    'aifi': {'encoder': 'transformers', 'aifi': 'transformers'},
    'out': {'out_proj': 'out_proj', 'o_proj': 'out_proj'},
    'fc': {
        'fc1': 'linear1',
        'fc2': 'linear2',
        'mlp.fc1': 'linear1',  # RT-DETR in transformers 5
        'mlp.fc2': 'linear2',
        'mlp.layers.0': 'linear1',  # D-FINE in transformers 5
        'mlp.layers.1': 'linear2',
    },
    'encoder_norm': {'self_attn_layer_norm': 'norm1', 'final_layer_norm': 'norm2'},
    'decoder_norm': {
        'self_attn_layer_norm': 'norm1',
        'encoder_attn_layer_norm': 'norm2',
        'final_layer_norm': 'norm3',
    },
}

# fmt: off
ENCODER_RULES = under(
    'model.',
    'neck.',
    ('encoder_input_proj.{i}.{input}.{leaf}', 'input_projs.{i}.{input}.{leaf}'),
    ('encoder.{aifi}.{i}.layers.{j}.self_attn.{out}.{leaf}', '{aifi}.{i}.layers.{j}.self_attn.{out}.{leaf}'),
    ('encoder.{aifi}.{i}.layers.{j}.{fc}.{leaf}', '{aifi}.{i}.layers.{j}.{fc}.{leaf}'),
    ('encoder.{aifi}.{i}.layers.{j}.{encoder_norm}.{leaf}', '{aifi}.{i}.layers.{j}.{encoder_norm}.{leaf}'),
    ('encoder.lateral_convs.{i}.{op}.{leaf}', 'lateral_convs.{i}.{op}.{leaf}'),
)
# fmt: on
