# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from . import compat

compat.setup()

from . import datasets, engine, models  # noqa: E402, F401
