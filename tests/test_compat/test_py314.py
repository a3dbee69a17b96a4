# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import pkgutil

import pytest

from deim_mmdet.compat import py314


def test_nothing_changes_where_python_has_it():
    if not hasattr(pkgutil, 'find_loader'):
        pytest.skip('removed in Python 3.14')
    before = pkgutil.find_loader
    py314.install()
    assert pkgutil.find_loader is before


def test_find_loader_is_added_where_it_is_gone(monkeypatch):
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    py314.install()
    assert pkgutil.find_loader('json').name == json.__name__
    assert pkgutil.find_loader('no_such_module') is None
    # how mmengine uses it
    from mmengine.model.utils import revert_sync_batchnorm
    from torch import nn

    assert isinstance(revert_sync_batchnorm(nn.SyncBatchNorm(3)), nn.Module)
    monkeypatch.delattr(pkgutil, 'find_loader')
