# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .batch_task_aligned_assigner import AlignedCells, BatchTaskAlignedAssigner
from .contrastive_denoising import ContrastiveDenoising, DenoisingQueries
from .denoising_query_generator import DenoisingQueryGenerator
from .matches import Matches, to_device
from .set_matcher import SetMatcher
from .targets import BatchTargets
from .union_set import union_of_sets
from .unpadded_denoising import UnpaddedDenoising

__all__ = [
    'AlignedCells',
    'BatchTargets',
    'BatchTaskAlignedAssigner',
    'ContrastiveDenoising',
    'DenoisingQueries',
    'DenoisingQueryGenerator',
    'Matches',
    'SetMatcher',
    'UnpaddedDenoising',
    'to_device',
    'union_of_sets',
]
