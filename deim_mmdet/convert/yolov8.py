# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Names in the published checkpoints of YOLOv8, and ours.

Published weights are numbered: one number for each layer, in the order they run.
"""

from .family import Family

PLACEHOLDERS = {
    'op': r'conv|bn',  # of a convolution block
    'layer': {
        '0': 'backbone.stem',
        '1': 'backbone.stages.0.downsample',
        '3': 'backbone.stages.1.downsample',
        '5': 'backbone.stages.2.downsample',
        '7': 'backbone.stages.3.downsample',
        '16': 'neck.downsample_convs.0',
        '19': 'neck.downsample_convs.1',
    },
    'block': {
        '2': 'backbone.stages.0.csp',
        '4': 'backbone.stages.1.csp',
        '6': 'backbone.stages.2.csp',
        '8': 'backbone.stages.3.csp',
        '12': 'neck.fpn_blocks.0',
        '15': 'neck.fpn_blocks.1',
        '18': 'neck.pan_blocks.0',
        '21': 'neck.pan_blocks.1',
    },
    'csp': {'cv1': 'split_conv', 'cv2': 'final_conv'},
    'pair': {'cv1': 'conv1', 'cv2': 'conv2'},
    'spp': {'cv1': 'reduce_conv', 'cv2': 'final_conv'},
    'first': r'[01]',  # of the three convolutions of a branch
}

# fmt: off
# YOLOv8 and DEYO
BACKBONE_NECK_RULES = (
    ('model.{layer}.{op}.{leaf}', '{layer}.{op}.{leaf}'),
    ('model.{block}.{csp}.{op}.{leaf}', '{block}.{csp}.{op}.{leaf}'),
    ('model.{block}.m.{i}.{pair}.{op}.{leaf}', '{block}.blocks.{i}.{pair}.{op}.{leaf}'),
    ('model.9.{spp}.{op}.{leaf}', 'backbone.stages.3.spp.{spp}.{op}.{leaf}'),
)
BOX_BRANCH_RULES = (
    ('model.22.cv2.{i}.{first}.{op}.{leaf}', 'bbox_head.box_branch.convs.{i}.{first}.{op}.{leaf}'),
    ('model.22.cv2.{i}.2.{leaf}', 'bbox_head.box_branch.branches.{i}.{leaf}'),
    ('model.22.dfl.conv.weight', 'bbox_head.box_branch.bins'),
)
CLASS_BRANCH_RULES = (
    ('model.22.cv3.{i}.{first}.{op}.{leaf}', 'bbox_head.cls_convs.{i}.{first}.{op}.{leaf}'),
    ('model.22.cv3.{i}.2.{leaf}', 'bbox_head.cls_branches.{i}.{leaf}'),
)
# fmt: on

YOLOV8 = Family(
    name='YOLOv8',
    placeholders=PLACEHOLDERS,
    rules=(*BACKBONE_NECK_RULES, *BOX_BRANCH_RULES, *CLASS_BRANCH_RULES),
    constants=('bbox_head.box_branch.bins',),
)
