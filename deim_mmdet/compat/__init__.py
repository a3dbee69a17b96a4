# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a recent PyTorch or Python needs from OpenMMLab's released packages.

Each part tests for the feature it is about, does nothing where that is not missing, and may be run
twice. With full mmcv nothing of mmcv changes, and safe loading of checkpoints stays on.
"""

from . import mmcv_ext, py314
from .versions import check_versions, has_any_requirement

__all__ = ['check_versions', 'has_any_requirement', 'setup']


def setup():
    """Prepares the process; to be called before anything of ``mmdet`` is imported.

    Raises:
        ImportError: Where torch, mmcv, mmengine or mmdet is missing or has an unfit version.
    """
    check_versions()
    mmcv_ext.install()
    py314.install()
    # These import mmengine, so they have to come after the rest.
    from . import broken_files
    from .checkpoint import allow_mmengine_checkpoints
    from .cpu_distributed import init_cpu_process_group

    allow_mmengine_checkpoints()
    broken_files.install()
    init_cpu_process_group()
