# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dfine import DFINE
from .transformers_dfine import DFINE_TRANSFORMERS
from .transformers_rtdetr import RTDETR_TRANSFORMERS, RTDETRV2_TRANSFORMERS

# Every family whose weights can be converted. Of two that fit, the first is taken.
FAMILIES = (DFINE, DFINE_TRANSFORMERS, RTDETR_TRANSFORMERS, RTDETRV2_TRANSFORMERS)
