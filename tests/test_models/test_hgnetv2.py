# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.backbones import HGNetv2
from deim_mmdet.models.backbones.hgnetv2 import SIZES

TINY = dict(stem_channels=(4, 4), stages=[(4, 8, 1, 2, 3, 0, 0), (4, 16, 2, 2, 5, 1, 1)])


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    'name, use_lab, count',
    [  # counted from the tables of keys and shapes of the published checkpoints
        ('B0', True, 1_850_396),
        ('B2', True, 6_026_626),
        ('B4', False, 13_553_376),
        ('B5', False, 33_325_760),
    ],
)
def test_number_of_parameters(name, use_lab, count):
    assert num_parameters(HGNetv2(name)) == count
    assert num_parameters(HGNetv2(name, use_lab=use_lab)) == count


@pytest.mark.parametrize('name', SIZES)
def test_every_size_gives_the_levels_it_announces(name):
    last = len(SIZES[name]['stages']) - 1
    with torch.device('meta'):
        model = MODELS.build(dict(type='HGNetv2', name=name, out_indices=(1, last)))
        levels = model(torch.empty(1, 3, 128, 64))
    assert model.out_strides == (8, 4 * 2**last)
    for level, channels, stride in zip(levels, model.out_channels, model.out_strides):
        assert level.shape == (1, channels, 128 // stride, 64 // stride)


def test_own_stages():
    model = HGNetv2(out_indices=(0, 1), **TINY)
    assert model.out_channels == (8, 16)
    assert [tuple(level.shape) for level in model(torch.rand(1, 3, 32, 64))] == [
        (1, 8, 8, 16),
        (1, 16, 4, 8),
    ]


def test_frozen_norms_are_buffers():
    # B4 of the D-FINE checkpoints, whose backbone norms are frozen: 45,696 parameters fewer
    model = HGNetv2('B4', freeze_norm=True)
    assert num_parameters(model) == 13_507_680
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_autocast_keeps_the_learned_affine_in_low_precision():
    model = HGNetv2(out_indices=(1,), use_lab=True, **TINY)
    dtypes = set()
    for block in model.stages:
        block.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.rand(2, 3, 32, 32))
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(name='B7'), "no size 'B7'"),
        (dict(stages=[(4, 8, 1, 2, 3, 0)]), r'stages\[0\] = .* has 6 entries'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HGNetv2(**kwargs)
