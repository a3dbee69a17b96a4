# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEIM and its family of real-time DETRs as ordinary MMDetection 3.x models.

Importing the package registers everything in mmdet's registries. In a config:
``custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)``.
"""

from . import compat
from .version import __version__

__all__ = ['__version__', 'compat', 'datasets', 'engine', 'models']

if compat.has_any_requirement():
    # Before the imports below: with mmcv-lite alone mmdet cannot be imported.
    compat.setup()

    from . import datasets, engine, models
else:
    # A machine that only runs exported files: `deim_mmdet.deploy.Detector` needs none of them.
    def __getattr__(name):
        if name in __all__:
            compat.check_versions()
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
