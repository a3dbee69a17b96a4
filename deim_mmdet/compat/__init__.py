# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
import types


def setup():
    if importlib.util.find_spec('mmcv') and not importlib.util.find_spec('mmcv._ext'):
        class _Ext(types.ModuleType):
            def __getattr__(self, name):
                if name.startswith('__'):
                    raise AttributeError(name)
                return lambda *a, **k: (_ for _ in ()).throw(NotImplementedError(name))
        sys.modules.setdefault('mmcv._ext', _Ext('mmcv._ext'))
