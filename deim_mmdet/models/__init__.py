# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from . import backbones, dense_heads, detectors, layers, losses, necks, task_modules  # noqa: F401
