# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Lets PyTorch >= 2.6 load what mmengine puts into a checkpoint, and nothing that runs code.

``torch.load`` reads tensors and plain containers only, unless a class is on its list of safe
globals. mmengine's checkpoints also hold the log history, NumPy arrays and bound statistics
methods, so ``resume``, ``load_from`` and ``init_detector`` refuse the files that training has just
written. Each of those classes is listed here by name; safe loading stays on.
"""

import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

STATISTICS = ('min', 'max', 'mean', 'current')


def allow_mmengine_checkpoints():
    """Adds the classes of mmengine's checkpoints to PyTorch's list of safe globals.

    Before PyTorch 2.6 ``torch.load`` has no such check by default, and nothing changes.
    """
    # The function came with the release that accepts (object, name) pairs and made checking the
    # default.
    if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        torch.serialization.add_safe_globals(safe_globals())


def safe_globals():
    """The list, as PyTorch takes it: objects, or pairs of an object and the name it is saved under.

    Checkpoints written with NumPy 1 and with NumPy 2 spell the same functions differently.
    """
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    listed = [HistoryBuffer, np.ndarray, np.dtype, (statistics_method, 'builtins.getattr')]
    for package in ('numpy.core', 'numpy._core'):
        listed.append((reconstruct, f'{package}.multiarray._reconstruct'))
        listed.append((scalar, f'{package}.multiarray.scalar'))
    # Arrays of numbers, booleans and strings. Arrays of objects would bring any class with them.
    return listed + sorted({type(np.dtype(code)) for code in '?bBhHiIlLqQefdFDSU'}, key=str)


def statistics_method(owner, name):
    """Stands in for ``getattr`` while a checkpoint is read.

    A log history holds its statistics methods, and pickle writes a method as
    ``getattr(HistoryBuffer, 'mean')``. A free ``getattr`` would lead from any allowed class to
    everything that is reachable from it.

    Raises:
        UnpicklingError: For anything but the four statistics methods of ``HistoryBuffer``.
    """
    if owner is HistoryBuffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the file asks for attribute {name!r} of {owner!r}; only {", ".join(STATISTICS)} of '
        'HistoryBuffer may be read while a checkpoint is loaded'
    )
