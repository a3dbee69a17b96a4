# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of DEYO, and ours.

Layers 0 to 21 are those of YOLOv8; the last one holds YOLOv8's branches and the decoder.
"""

from .family import Family, under
from .rtdetr import RTDETRV2
from .yolov8 import BACKBONE_NECK_RULES, BOX_BRANCH_RULES
from .yolov8 import PLACEHOLDERS as YOLOV8_PLACEHOLDERS

# fmt: off
DECODER_RULES = (
    *under(
        'model.22.',
        '',
        ('input_proj.{i}.{conv_norm}.{leaf}', 'memory_projs.{i}.{conv_norm}.{leaf}'),
        ('enc_output.{proj_norm}.{leaf}', 'query_selection.{proj_norm}.{leaf}'),
        ('enc_score_head.{leaf}', 'query_selection.cls_branch.{leaf}'),
        ('denoising_class_embed.weight', 'denoising.label_embedding.weight'),
        ('query_pos_head.{rest}', 'decoder.query_pos_mlp.{rest}'),
        ('dec_score_head.{i}.{leaf}', 'decoder.cls_branches.{i}.{leaf}'),
        ('dec_bbox_head.{i}.{rest}', 'decoder.reg_branches.{i}.{rest}'),
    ),
    *under(
        'model.22.decoder.layers.{i}.',
        'decoder.layers.{i}.',
        ('self_attn.{rest}', 'self_attn.{rest}'),
        ('cross_attn.{attn}.{leaf}', 'cross_attn.{attn}.{leaf}'),
        ('{linear}.{leaf}', 'ffn.{linear}.{leaf}'),
        ('{norm}.{leaf}', '{norm}.{leaf}'),
    ),
)
# fmt: on

DEYO = Family(
    name='DEYO',
    placeholders={
        **YOLOV8_PLACEHOLDERS,
        'conv_norm': {'0': 'conv', '1': 'norm'},
        'proj_norm': {'0': 'proj', '1': 'norm'},
        **{name: RTDETRV2.placeholders[name] for name in ('attn', 'linear', 'norm')},
    },
    rules=(*BACKBONE_NECK_RULES, *BOX_BRANCH_RULES, *DECODER_RULES),
    dropped=(('model.22.cv3.{rest}', 'class branch of YOLOv8, which DEYO does not use'),),
    constants=('bbox_head.box_branch.bins',),
)
