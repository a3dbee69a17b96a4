# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Several processes on the CPU: the process group that mmengine cannot make.

Without an accelerator mmengine's ``init_dist`` still calls ``torch.cuda.set_device`` and fails,
whatever backend the config names. It leaves a group alone that exists already, so the group is made
when the plugin is imported: ``custom_imports`` comes before the Runner. The other half is
:class:`deim_mmdet.engine.AnyDeviceDistributedDataParallel`.
"""

import multiprocessing
import os

import torch.distributed as dist
from mmengine.device import get_device

# Set by torchrun and `torch.distributed.launch` in each of their processes.
LAUNCHER_VARIABLES = ('TORCHELASTIC_RUN_ID', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT')

# A program started by a rank inherits its variables; this one tells that they are not its own.
OWNER = 'DEIM_MMDET_RANK_PID'


def init_cpu_process_group():
    """Joins the gloo group where torchrun started several processes and there is no accelerator.

    Returns:
        bool: Whether a group was made. It is not in a process alone, in data loading workers and
        other children of a rank, with an accelerator, or where a group exists.
    """
    if not (_is_one_of_several() and dist.is_available()):
        return False
    if dist.is_initialized() or get_device() != 'cpu':
        return False
    os.environ[OWNER] = str(os.getpid())
    dist.init_process_group('gloo')
    return True


def _is_one_of_several():
    return (
        all(name in os.environ for name in LAUNCHER_VARIABLES)
        and int(os.environ['WORLD_SIZE']) > 1
        and multiprocessing.parent_process() is None
        and os.environ.get(OWNER, str(os.getpid())) == str(os.getpid())
    )
