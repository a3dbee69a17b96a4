# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dfine_decoder import DFINEDecoder
from .mlp import MLP
from .query_selection import QuerySelection

__all__ = ['DFINEDecoder', 'MLP', 'QuerySelection']
