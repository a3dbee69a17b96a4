# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""``pkgutil.find_loader`` for Python 3.14, which removed it; mmengine and mmcv still call it."""

import importlib.util
import pkgutil


def install():
    """Adds ``pkgutil.find_loader`` where Python has none; elsewhere nothing changes."""
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = find_loader


def find_loader(fullname):
    """The loader of a module, or None when there is no such module."""
    spec = importlib.util.find_spec(fullname)
    return None if spec is None else spec.loader
