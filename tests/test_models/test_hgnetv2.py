# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.backbones import HGNetv2
from deim_mmdet.models.backbones.hgnetv2 import SIZES
from deim_mmdet.models.layers.conv import FrozenBatchNorm2d
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[1] / 'fixtures'
TINY = dict(stem_channels=(4, 4), stages=[(4, 8, 1, 2, 3, 0, 0), (4, 16, 2, 2, 5, 1, 1)])


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


def published_weights():
    weights = fill.state_dict_from_tsv(FIXTURES / 'deim_hgnetv2_n.tsv')
    prefix = 'backbone.'
    return {
        key[len(prefix) :]: torch.from_numpy(np.asarray(value))
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def test_features_agree_with_the_published_implementation():
    model = HGNetv2('B0', out_indices=(2, 3)).eval()
    model.load_state_dict(published_weights())  # same names, every key used
    golden = np.load(FIXTURES / 'deim_hgnetv2_n.npz')
    size = int(golden['size'])
    image = torch.from_numpy(fill.image(size, size, int(golden['image_seed'])))
    with torch.no_grad():
        levels = model(image)
    for i, level in enumerate(levels):
        for name, actual in (('mean', level.mean((0, 2, 3))), ('std', level.std((0, 2, 3)))):
            expected = torch.from_numpy(golden[f'backbone_{name}_{i}'])
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


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


def test_an_image_gives_the_same_features_alone_and_in_a_batch():
    model = HGNetv2(out_indices=(1,), **TINY).eval()
    images = torch.rand(3, 3, 32, 64)
    (batch,) = model(images)
    (alone,) = model(images[1:2])
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-5, atol=1e-6)


def test_frozen_stages_do_not_move():
    model = HGNetv2(out_indices=(1,), frozen_stages=1, **TINY).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(2, 3, 32, 32))[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(('stem.', 'stages.0.')), name
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(key.startswith('stages.1.') for key in changed)


def test_frozen_norms_are_buffers():
    # B4 of the D-FINE checkpoints, whose backbone norms are frozen: 45,696 parameters fewer
    model = HGNetv2('B4', freeze_norm=True)
    assert num_parameters(model) == 13_507_680
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_frozen_norms_take_the_weights_of_trained_ones():
    trained = HGNetv2(out_indices=(1,), **TINY).train()
    images = torch.rand(2, 3, 32, 32)
    trained(images)  # moves the statistics
    frozen = HGNetv2(out_indices=(1,), freeze_norm=True, **TINY).train()
    frozen.load_state_dict(trained.state_dict())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    torch.testing.assert_close(frozen(images)[0], trained.eval()(images)[0])


def test_recomputed_blocks_give_the_same_gradients():
    plain = HGNetv2(out_indices=(1,), **TINY)
    saving = HGNetv2(out_indices=(1,), with_cp=True, **TINY)
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    for model in (plain, saving):
        model(images)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


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
        (dict(out_indices=(2, 4)), r'out_indices = \(2, 4\) must name stages 0 to 3'),
        (dict(out_indices=()), r'out_indices = \(\)'),
        (dict(out_indices=(3, 2)), 'must rise'),
        (dict(frozen_stages=5), 'frozen_stages = 5'),
        (dict(stages=[(4, 8, 1, 2, 3, 0)]), r'stages\[0\] = .* has 6 entries'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HGNetv2(**kwargs)
