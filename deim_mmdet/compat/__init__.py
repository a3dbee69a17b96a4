# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a recent PyTorch or Python needs from OpenMMLab's released packages.

Each part tests for the feature it is about, does nothing where that is not missing, and may be run
twice. With full mmcv nothing of mmcv changes; nothing is loosened for the whole process except
that PyTorch's safe loading knows a few more classes by name.
"""

from . import mmcv_ext, py314


def setup():
    """Prepares the process; to be called before anything of ``mmdet`` is imported."""
    mmcv_ext.install()
    py314.install()
