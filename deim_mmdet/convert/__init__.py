# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .checkpoint_file import convert_checkpoint_file, load_weights_only
from .families import FAMILIES
from .family import Family
from .state_dict import ConversionReport, convert_state_dict, published_weights

__all__ = [
    'FAMILIES',
    'ConversionReport',
    'Family',
    'convert_checkpoint_file',
    'convert_state_dict',
    'load_weights_only',
    'published_weights',
]
