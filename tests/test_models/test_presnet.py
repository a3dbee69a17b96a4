# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.backbones import PResNet


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    'depth, channels, trained, frozen',
    [  # counted from the tables of keys and shapes of the published checkpoints
        (18, (128, 256, 512), 11_199_968, 11_190_112),
        (34, (128, 256, 512), 21_308_128, 21_290_848),
        (50, (512, 1024, 2048), 23_527_264, 23_474_016),
        (101, (512, 1024, 2048), 42_519_392, 42_413_920),
    ],
)
def test_every_depth(depth, channels, trained, frozen):
    with torch.device('meta'):
        model = MODELS.build(dict(type='PResNet', depth=depth))
        levels = model(torch.empty(1, 3, 128, 64))
        assert num_parameters(model) == trained
        assert num_parameters(PResNet(depth, freeze_norm=True)) == frozen
    assert model.out_channels == channels
    assert model.out_strides == (8, 16, 32)
    for level, level_channels, stride in zip(levels, channels, model.out_strides):
        assert level.shape == (1, level_channels, 128 // stride, 64 // stride)


def test_wrong_depth():
    with pytest.raises(ValueError, match='no depth 152: take one of 18, 34, 50, 101'):
        PResNet(152)
