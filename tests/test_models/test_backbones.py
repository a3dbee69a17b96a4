# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What holds for every backbone: published weights and features, freezing, folding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.layers.conv import FrozenBatchNorm2d, switch_to_deploy
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[1] / 'fixtures'

# type: config with published weights, fixture
PUBLISHED = {
    'HGNetv2': (dict(name='B0', out_indices=(2, 3)), 'deim_hgnetv2_n'),
    'PResNet': (dict(depth=18), 'rtdetrv2_r18vd_120e'),
}
# type: small config, parts frozen by frozen_stages=1, other parts that run
SMALL = {
    'HGNetv2': (
        dict(stem_channels=(4, 4), stages=[(4, 8, 1, 2, 3, 0, 0), (4, 16, 2, 2, 5, 1, 1)]),
        {'stem', 'stages.0'},
        {'stages.1'},
    ),
    'PResNet': (
        dict(depth=18),
        {'conv1', 'res_layers.0'},
        {'res_layers.1', 'res_layers.2', 'res_layers.3'},
    ),
    'YOLOv8Backbone': (
        dict(size=(0.33, 0.0625, 1024)),
        {'stem', 'stages.0'},
        {'stages.1', 'stages.2', 'stages.3'},
    ),
}


def published_weights(name: str) -> dict:
    weights = fill.state_dict_from_tsv(FIXTURES / f'{PUBLISHED[name][1]}.tsv')
    prefix = 'backbone.'
    return {
        key[len(prefix) :]: torch.from_numpy(np.asarray(value))
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def with_published_weights(name: str) -> torch.nn.Module:
    model = MODELS.build(dict(type=name, **PUBLISHED[name][0])).eval()
    model.load_state_dict(published_weights(name))  # same names, every key used
    return model


def small(name: str, **kwargs) -> torch.nn.Module:
    return MODELS.build(dict(type=name, **{'out_indices': (1,), **SMALL[name][0], **kwargs}))


@pytest.mark.parametrize('name', PUBLISHED)
def test_features_agree_with_the_published_implementation(name):
    golden = np.load(FIXTURES / f'{PUBLISHED[name][1]}.npz')
    size = int(golden['size'])
    image = torch.from_numpy(fill.image(size, size, int(golden['image_seed'])))
    with torch.no_grad():
        levels = with_published_weights(name)(image)
    for i, level in enumerate(levels):
        for key, actual in (('mean', level.mean((0, 2, 3))), ('std', level.std((0, 2, 3)))):
            expected = torch.from_numpy(golden[f'backbone_{key}_{i}'])
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', PUBLISHED)
def test_weights_of_imagenet_load_through_init_cfg(name, tmp_path):
    torch.save(published_weights(name), tmp_path / 'imagenet.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'imagenet.pth'))
    model = MODELS.build(dict(type=name, freeze_norm=True, init_cfg=init_cfg, **PUBLISHED[name][0]))
    model.init_weights()
    state = model.state_dict()
    for key, value in published_weights(name).items():
        if not key.endswith('num_batches_tracked'):  # frozen norms do not count
            torch.testing.assert_close(state[key], value)


@pytest.mark.parametrize('name', PUBLISHED)
def test_folded_norms_give_the_same_features(name):
    model, folded = with_published_weights(name), with_published_weights(name)
    switch_to_deploy(folded, fold_all_norms=True)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for actual, expected in zip(folded(images), model(images)):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', SMALL)
def test_published_deploy_form_keeps_the_norms(name):
    model = small(name)
    before = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in switch_to_deploy(model).parameters()) == before


@pytest.mark.parametrize('name', SMALL)
def test_an_image_gives_the_same_features_alone_and_in_a_batch(name):
    model = small(name).eval()
    images = torch.rand(3, 3, 32, 64)
    with torch.no_grad():
        (batch,), (alone,) = model(images), model(images[1:2])
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
def test_frozen_stages_do_not_move(name):
    _, frozen, others = SMALL[name]
    last = int(max(others)[-1])
    model = small(name, out_indices=(last,), frozen_stages=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))[0].sum().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith(tuple(frozen)), key
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {'.'.join(key.split('.')[:2]) for key in changed} == others


@pytest.mark.parametrize('name', SMALL)
def test_frozen_norms_take_the_weights_of_trained_ones(name):
    trained = small(name).train()
    images = torch.rand(2, 3, 32, 32)
    trained(images)  # moves the statistics
    frozen = small(name, freeze_norm=True).train()
    frozen.load_state_dict(trained.state_dict())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    torch.testing.assert_close(frozen(images)[0], trained.eval()(images)[0])


@pytest.mark.parametrize(
    'name, kwargs', [('HGNetv2', {}), ('PResNet', dict(depth=18)), ('PResNet', dict(depth=50))]
)
def test_recomputed_blocks_give_the_same_gradients(name, kwargs):
    # fixed norms: with two images of a few cells their statistics amplify rounding
    plain = small(name, freeze_norm=True, **kwargs)
    saving = small(name, freeze_norm=True, with_cp=True, **kwargs)
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 32, 32)
    for model in (plain, saving):
        model(images)[0].square().sum().backward()
    pairs = list(zip(plain.parameters(), saving.parameters()))
    assert any(a.grad is not None for a, _ in pairs)
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize('name', PUBLISHED)
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(out_indices=(2, 4)), r'out_indices = \(2, 4\) must name stages 0 to 3'),
        (dict(out_indices=()), r'out_indices = \(\)'),
        (dict(out_indices=(3, 2)), 'must rise'),
        (dict(frozen_stages=5), 'frozen_stages = 5'),
    ],
)
def test_wrong_stages(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type=name, **kwargs))
