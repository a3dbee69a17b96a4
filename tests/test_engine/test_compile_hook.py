# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from torch import nn


class Part(nn.Module):
    def __init__(self, out_channels):
        super().__init__()
        self.linear = nn.Linear(2, out_channels)

    def forward(self, x):
        return self.linear(x).relu()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.stem = Part(2)
        self.backbone.stage = Part(2)
        self.neck = Part(1)

    def forward(self, x):
        return self.neck(self.backbone(x))


def run(model, **kwargs):
    hook = HOOKS.build(dict(type='CompileHook', **kwargs))
    messages = []
    hook.before_run(SimpleNamespace(model=model, logger=SimpleNamespace(info=messages.append)))
    return messages


@pytest.mark.parametrize(
    'components', [['neck'], ['backbone.stem', 'neck'], ['backbone.stem', 'backbone.stage', 'neck']]
)
def test_parts_are_compiled_and_names_stay(components):
    model = Model()
    names, x = list(model.state_dict()), torch.rand(3, 2)
    expected = model(x)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    assert ', '.join(components) in run(model, components=components, backend=backend)[0]
    torch.testing.assert_close(model(x), expected)
    assert len(graphs) == len(components)
    assert list(model.state_dict()) == names


def test_unknown_part():
    with pytest.raises(ValueError, match="Model has no submodule 'encoder'; it has backbone, neck"):
        run(Model(), components=['encoder'])
