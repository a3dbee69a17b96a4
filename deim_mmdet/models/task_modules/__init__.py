# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .contrastive_denoising import ContrastiveDenoising, DenoisingQueries
from .matches import Matches, to_device
from .set_matcher import SetMatcher
from .targets import BatchTargets
from .union_set import union_of_sets

__all__ = [
    'BatchTargets',
    'ContrastiveDenoising',
    'DenoisingQueries',
    'Matches',
    'SetMatcher',
    'to_device',
    'union_of_sets',
]
