# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.backbones import PResNet
from deim_mmdet.models.layers.conv import FrozenBatchNorm2d, switch_to_deploy
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[1] / 'fixtures'


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


def published_weights():
    weights = fill.state_dict_from_tsv(FIXTURES / 'rtdetrv2_r18vd_120e.tsv')
    prefix = 'backbone.'
    return {
        key[len(prefix) :]: torch.from_numpy(np.asarray(value))
        for key, value in weights.items()
        if key.startswith(prefix)
    }


@pytest.fixture(scope='module')
def published():
    """Depth 18 with the weights of the fixture, and the fixture's image."""
    model = PResNet(18).eval()
    model.load_state_dict(published_weights())  # same names, every key used
    golden = np.load(FIXTURES / 'rtdetrv2_r18vd_120e.npz')
    size = int(golden['size'])
    return model, torch.from_numpy(fill.image(size, size, int(golden['image_seed']))), golden


def test_features_agree_with_the_published_implementation(published):
    model, image, golden = published
    with torch.no_grad():
        levels = model(image)
    for i, level in enumerate(levels):
        for name, actual in (('mean', level.mean((0, 2, 3))), ('std', level.std((0, 2, 3)))):
            expected = torch.from_numpy(golden[f'backbone_{name}_{i}'])
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


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


def test_weights_of_imagenet_load_through_init_cfg(tmp_path):
    torch.save(published_weights(), tmp_path / 'imagenet.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'imagenet.pth'))
    model = MODELS.build(dict(type='PResNet', depth=18, freeze_norm=True, init_cfg=init_cfg))
    model.init_weights()
    state = model.state_dict()
    for key, value in published_weights().items():
        if not key.endswith('num_batches_tracked'):  # frozen norms do not count
            torch.testing.assert_close(state[key], value)


def test_an_image_gives_the_same_features_alone_and_in_a_batch(published):
    model = published[0]
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        for batch, alone in zip(model(images), model(images[1:2])):
            torch.testing.assert_close(batch[1:2], alone, rtol=1e-5, atol=1e-5)


def test_folded_norms_give_the_same_features(published):
    trained, image, _ = published
    model = PResNet(18)
    model.load_state_dict(trained.state_dict())
    switch_to_deploy(model)
    assert num_parameters(model) == 11_199_968  # the published deploy form keeps these norms
    switch_to_deploy(model, fold_all_norms=True)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        for folded, level in zip(model(image), trained(image)):
            torch.testing.assert_close(folded, level, rtol=1e-4, atol=1e-4)


def test_frozen_stages_do_not_move():
    model = PResNet(18, out_indices=(3,), frozen_stages=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(2, 3, 32, 32))[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(('conv1.', 'res_layers.0.')), name
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    moved = {'.'.join(key.split('.')[:2]) for key in changed}
    assert moved == {'res_layers.1', 'res_layers.2', 'res_layers.3'}


def test_frozen_norms_do_not_depend_on_the_mode():
    model = PResNet(18, out_indices=(0,), freeze_norm=True).train()
    assert any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images)[0], model.eval()(images)[0])


@pytest.mark.parametrize('depth', [18, 50])
def test_recomputed_blocks_give_the_same_gradients(depth):
    cfg = dict(depth=depth, out_indices=(3,), freeze_norm=True)
    plain, saving = PResNet(**cfg), PResNet(**cfg, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 32, 32)
    for model in (plain, saving):
        model(images)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(depth=152), 'no depth 152: take one of 18, 34, 50, 101'),
        (dict(out_indices=(2, 4)), r'out_indices = \(2, 4\) must name stages 0 to 3'),
        (dict(out_indices=()), r'out_indices = \(\)'),
        (dict(out_indices=(3, 2)), 'must rise'),
        (dict(frozen_stages=5), 'frozen_stages = 5'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PResNet(**kwargs)
