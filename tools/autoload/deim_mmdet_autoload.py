# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Appends deim_mmdet's finder of ``mmcv._ext`` whenever PyTorch is imported.

PyTorch >= 2.5 calls the entry points of the group ``torch.backends`` at the end of its import. This
reaches what a config's ``custom_imports`` cannot: mmdet's test.py and analysis tools, programs that
begin with ``from mmdet.apis import ...``, and workers started by spawn or forkserver.
``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` in the environment switches it off.
"""

import importlib.util
from pathlib import Path


def autoload():
    """Installs the finder, without importing the package that it is part of.

    An exception here would make ``import torch`` itself fail, so there is none: without the finder
    mmdet says what it misses.
    """
    try:
        # Finding a top-level package does not run it.
        package = importlib.util.find_spec('deim_mmdet')
        if package is None:
            return
        path = Path(package.origin).parent / 'compat' / 'mmcv_ext.py'
        spec = importlib.util.spec_from_file_location('_deim_mmdet_mmcv_ext', path)
        finder = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(finder)
        finder.install()
    except Exception:
        pass
