# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .dfine import DFINE

# Every family whose weights can be converted. Of two that fit, the first is taken.
FAMILIES = (DFINE,)
