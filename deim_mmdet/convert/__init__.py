# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from ..new_output import new_output, new_outputs
from .checkpoint_file import convert_checkpoint_file, export_checkpoint_file, read_published
from .configs import describe_configs, fitting_configs
from .families import FAMILIES
from .family import Family, PublishedForm
from .mmdet_checkpoint import check_class_names, to_mmdet_checkpoint, to_official_checkpoint
from .pytorch_file import load_weights_only
from .state_dict import (
    ConversionReport,
    convert_state_dict,
    is_published,
    published_weights,
    revert_state_dict,
)

__all__ = [
    'FAMILIES',
    'ConversionReport',
    'Family',
    'PublishedForm',
    'check_class_names',
    'convert_checkpoint_file',
    'convert_state_dict',
    'describe_configs',
    'export_checkpoint_file',
    'fitting_configs',
    'is_published',
    'load_weights_only',
    'new_output',
    'new_outputs',
    'published_weights',
    'read_published',
    'revert_state_dict',
    'to_mmdet_checkpoint',
    'to_official_checkpoint',
]
