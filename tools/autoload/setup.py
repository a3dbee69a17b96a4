# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""`pip install ./tools/autoload`: mmdet's own tools run unmodified with mmcv-lite.

Opt-in, because its entry point runs at the end of every `import torch` of the environment.
"""

from setuptools import setup

setup(
    name='deim-mmdet-autoload',
    version='0.1.0',
    description='Makes mmdet importable with mmcv-lite in every process that imports torch',
    license='Apache-2.0',
    python_requires='>=3.9',
    py_modules=['deim_mmdet_autoload'],
    entry_points={'torch.backends': ['deim_mmdet = deim_mmdet_autoload:autoload']},
)
