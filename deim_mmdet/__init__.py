# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEIM and its family of real-time DETRs as ordinary MMDetection 3.x models.

Importing the package registers everything in mmdet's registries. In a config:
``custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)``.
"""

from . import compat
from .version import __version__

# Before the imports below: with mmcv-lite alone mmdet cannot be imported.
compat.setup()

from . import datasets, engine, models  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'engine', 'models']
