# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Models of classes that are gone when their files are read."""

import importlib.util
import sys

import pytest
import torch

FOREIGN = '''
import torch
from torch import nn


class Block(nn.Module):
    """A module that holds one of every kind of thing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.register_buffer('cache', torch.zeros(2), persistent=False)
        self.tied = self.conv.weight
        self.note = dict(size=torch.Size([2]), tags={'a', 'b'}, path=Path('x'))
        self.device = torch.device('cpu')


class Path(str):
    pass


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(Block(), nn.Identity(), nn.ModuleList([Block()]))
        self.names = {0: 'cat', 1: 'dog'}


class Named(nn.Module):
    """A module whose state has the given names."""

    def __init__(self, weights):
        super().__init__()
        for key, value in weights.items():
            *path, leaf = key.split('.')
            inner = self
            for name in path:
                if name not in inner._modules:
                    inner.add_module(name, nn.Module())
                inner = inner._modules[name]
            inner.register_buffer(leaf, value)
'''


@pytest.fixture
def foreign(tmp_path):
    """A module of classes, which a test deletes before it loads."""
    (tmp_path / 'foreign_models.py').write_text(FOREIGN)
    spec = importlib.util.spec_from_file_location('foreign_models', tmp_path / 'foreign_models.py')
    module = sys.modules['foreign_models'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    forget()


def forget():
    sys.modules.pop('foreign_models', None)


def save(content, path, zip_format=True):
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return path
