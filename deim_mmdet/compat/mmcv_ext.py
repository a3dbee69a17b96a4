# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Answers ``import mmcv._ext`` where mmcv has no compiled ops, i.e. with mmcv-lite.

``mmdet.models``, ``mmdet.datasets`` and most of mmdet's other packages import ``mmcv.ops``, which
imports the compiled ``mmcv._ext`` before anybody has asked for an op. mmcv-lite does not ship it.

Only the standard library is used here, and nothing is imported from this package: the module is
also loaded on its own, by path, before this package may be imported (``tools/autoload``).
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

EXTENSION = 'mmcv._ext'
SUBSTITUTE = Path(__file__).with_name('_ext_torch.py')


class MMCVExtFinder(importlib.abc.MetaPathFinder):
    """Finds the PyTorch substitute of ``mmcv._ext``, and nothing else.

    The finder stands at the end of ``sys.meta_path``, behind Python's own: a compiled ``_ext`` is
    found before this one is asked, so an environment with full mmcv behaves as if it did not exist.
    """

    extension = EXTENSION

    def find_spec(self, fullname, path=None, target=None):
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(fullname, SUBSTITUTE)


def install():
    """Appends the finder to ``sys.meta_path``; a second call changes nothing."""
    # By attribute, not by class: the class may have been loaded a second time, by path.
    if not any(getattr(finder, 'extension', None) == EXTENSION for finder in sys.meta_path):
        sys.meta_path.append(MMCVExtFinder())
