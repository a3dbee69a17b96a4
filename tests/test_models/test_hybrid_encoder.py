# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.convert import convert_state_dict
from deim_mmdet.models.backbones import HGNetv2
from deim_mmdet.models.layers.conv import switch_to_deploy
from deim_mmdet.models.layers.transformer_encoder import SinePositions2D
from deim_mmdet.models.necks import HybridEncoder
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[1] / 'fixtures'
# in_channels, embed_dims, ffn_channels, expansion, depth_mult
SIZES = {
    'N': ((512, 1024), 128, 512, 0.34, 0.5),
    'S': ((256, 512, 1024), 256, 1024, 0.5, 0.34),
    'M': ((384, 768, 1536), 256, 1024, 1.0, 0.67),
    'L': ((512, 1024, 2048), 256, 1024, 1.0, 1.0),
    'X': ((512, 1024, 2048), 384, 2048, 1.0, 1.0),
}
RTDETR_FORM = dict(
    block_cfg=dict(type='CSPRepLayer'),
    downsample_cfg=dict(type='ConvDownsample'),
    lateral_act_cfg=dict(type='SiLU'),
)


def build(size):
    names = ('in_channels', 'embed_dims', 'ffn_channels', 'expansion', 'depth_mult')
    return MODELS.build(dict(type='HybridEncoder', **dict(zip(names, SIZES[size]))))


def tiny(**kwargs):
    kwargs = {'num_heads': 2, 'ffn_channels': 16, 'depth_mult': 0.34, **kwargs}
    return HybridEncoder([4, 6, 8], embed_dims=8, **kwargs).eval()


def levels_of(height, width, bs=1, channels=(4, 6, 8)):
    return [torch.randn(bs, c, height >> i, width >> i) for i, c in enumerate(channels)]


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope='module')
def published():
    """Backbone and neck of N with the published weights, their input and the golden numbers."""
    weights = fill.state_dict_from_tsv(FIXTURES / 'deim_hgnetv2_n.tsv')
    weights = {key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()}
    converted, _ = convert_state_dict(weights)
    backbone = HGNetv2('B0', out_indices=(2, 3))
    model = torch.nn.ModuleDict(dict(backbone=backbone, neck=build('N'))).eval()
    parts = ('backbone.', 'neck.')
    model.load_state_dict({k: v for k, v in converted.items() if k.startswith(parts)})
    golden = np.load(FIXTURES / 'deim_hgnetv2_n.npz')
    size = int(golden['size'])
    image = torch.from_numpy(fill.image(size, size, int(golden['image_seed'])))
    return model, image, golden


@torch.no_grad()
def test_features_agree_with_the_published_implementation(published):
    model, image, golden = published
    for i, level in enumerate(model['neck'](model['backbone'](image))):
        for name, actual in (('mean', level.mean((0, 2, 3))), ('std', level.std((0, 2, 3)))):
            expected = torch.from_numpy(golden[f'encoder_{name}_{i}'])
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'size, train, deploy',
    [
        # train: counted from the tables of keys and shapes of the published checkpoints.
        # deploy: each norm but those of the input projections becomes a bias, each 1x1 branch of
        # a RepVGG block goes. For N: lateral 128, downsampling 2 * 128, and in each of two blocks
        # 256 + 128 + 2 branches * (21 * 3 + 2 RepVGG * (21 * 21 + 2 * 21 + 21)) = 2526: together
        # 5436. The published 28,894 of the whole model is this and 23,458 in the decoder.
        ('N', 703_824, 703_824 - 5_436),
        ('S', 4_021_504, 4_021_504 - 40_448),
        ('M', 7_799_040, 7_799_040 - 275_968),
        ('L', 9_343_232, 9_343_232 - 410_112),
        ('X', 20_700_032, 20_700_032 - 910_080),
    ],
)
def test_number_of_parameters(size, train, deploy):
    model = build(size)
    assert num_parameters(model) == train
    assert num_parameters(switch_to_deploy(model)) == deploy
    assert num_parameters(switch_to_deploy(model)) == deploy  # nothing left to do


@torch.no_grad()
@pytest.mark.parametrize('fold_all_norms', [False, True])
def test_deploy_form_equals_train_form(published, fold_all_norms):
    model, image, _ = published
    expected = model['neck'](model['backbone'](image))
    twin = torch.nn.ModuleDict(
        dict(backbone=HGNetv2('B0', out_indices=(2, 3)), neck=build('N'))
    ).eval()
    twin.load_state_dict(model.state_dict())
    switch_to_deploy(twin, fold_all_norms)
    for a, b in zip(twin['neck'](twin['backbone'](image)), expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'in_channels, kwargs, count',
    [  # R18, R50, R101 of the published RT-DETRv2 checkpoints
        ((128, 256, 512), dict(expansion=0.5), 4_965_120),
        ((512, 1024, 2048), {}, 11_950_848),
        ((512, 1024, 2048), dict(embed_dims=384, ffn_channels=2048), 26_577_536),
    ],
)
def test_the_other_form_is_other_block_types(in_channels, kwargs, count):
    with torch.device('meta'):
        assert num_parameters(HybridEncoder(in_channels, **kwargs, **RTDETR_FORM)) == count


@pytest.mark.parametrize('form', [{}, RTDETR_FORM])
@pytest.mark.parametrize('height, width', [(8, 8), (8, 16), (20, 4)])
def test_every_level_keeps_its_shape_and_every_parameter_gets_a_gradient(form, height, width):
    model = tiny(**form)
    levels = levels_of(height, width, bs=2)
    outputs = model(levels)
    assert model.out_channels == (8, 8, 8)
    assert [output.shape for output in outputs] == [(2, 8, *level.shape[2:]) for level in levels]
    sum(output.square().sum() for output in outputs).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_levels_are_not_changed():
    levels = levels_of(8, 8)
    copies = [level.clone() for level in levels]
    tiny()(levels)
    assert all(torch.equal(a, b) for a, b in zip(levels, copies))


@torch.no_grad()
def test_an_image_gives_the_same_features_alone_and_in_a_batch():
    model, levels = tiny(), levels_of(8, 16, bs=3)
    for batch, alone in zip(model(levels), model([level[1:2] for level in levels])):
        torch.testing.assert_close(batch[1:2], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_encoder_may_serve_several_levels():
    model = tiny(encoder_levels=(1, -1), num_encoder_layers=2)
    assert model.encoder_levels == (1, 2)
    assert len(model.transformers) == 2 and len(model.transformers[0].layers) == 2
    assert model(levels_of(8, 8))[0].shape == (1, 8, 8, 8)


def published_positions(width, height, dims, temperature=10000.0):
    """The published layout: cells column by column, and the first half of the channels is x."""
    x, y = np.meshgrid(np.arange(width), np.arange(height), indexing='ij')
    waves = temperature ** -(np.arange(dims // 4) / (dims // 4))
    x, y = x.reshape(-1, 1) * waves, y.reshape(-1, 1) * waves
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def test_positions_of_a_square_are_the_published_ones():
    actual = SinePositions2D(16)(torch.empty(1, 1, 5, 5))
    np.testing.assert_allclose(actual[0].numpy(), published_positions(5, 5, 16), atol=1e-6)


def test_positions_of_a_rectangle_are_those_of_its_cells_in_a_square():
    positions = SinePositions2D(16)
    square = positions(torch.empty(1, 1, 7, 7)).view(7, 7, 16)
    wide = positions(torch.empty(1, 1, 3, 7)).view(3, 7, 16)
    tall = positions(torch.empty(1, 1, 7, 2)).view(7, 2, 16)
    assert torch.equal(wide, square[:3])
    assert torch.equal(tall, square[:, :2])
    # the published layout gives other cells' positions here
    assert not np.allclose(wide.reshape(-1, 16).numpy(), published_positions(7, 3, 16), atol=0.1)


def test_positions_are_cached_by_shape_and_dtype_and_never_stored():
    positions = SinePositions2D(16)
    x = torch.empty(1, 1, 3, 7)
    assert positions(x) is positions(x)
    assert positions(x.transpose(2, 3)) is not positions(x)
    assert positions(x.bfloat16()).dtype == torch.bfloat16
    assert not positions.state_dict()
    for height in range(1, 2 * positions.MAX_CACHED):
        positions(torch.empty(1, 1, height, 1))
    assert len(positions._cache) <= positions.MAX_CACHED


def test_training_can_use_what_testing_cached():
    model, levels = tiny(), levels_of(8, 8)
    with torch.inference_mode():
        model([level.clone() for level in levels])
    model(levels)[0].sum().backward()
    assert model.input_projs[-1].conv.weight.grad is not None


@torch.no_grad()
def test_a_trace_serves_other_shapes():
    model = tiny()
    traced = torch.jit.trace(model, (levels_of(8, 8),), check_trace=False)
    levels = levels_of(12, 20, bs=2)
    for a, b in zip(traced(levels), model(levels)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_compiles_without_graph_breaks():
    model = tiny()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for levels in (levels_of(8, 8), levels_of(12, 20)):
        for a, b in zip(compiled(levels), model(levels)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_autocast_trains():
    model = tiny().train()
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(levels_of(8, 16, bs=2))
    sum(output.float().sum() for output in outputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    'levels, message',
    [
        (levels_of(8, 8, channels=(4, 6)), 'levels of .* channels and got'),
        (levels_of(8, 8, channels=(4, 6, 9)), 'got .4, 6, 9.'),
        (levels_of(9, 8), 'multiples of 32'),
    ],
)
def test_levels_that_do_not_fit(levels, message):
    with pytest.raises(ValueError, match=message):
        tiny()(levels)


def test_wrong_arguments():
    with pytest.raises(ValueError, match='no level 3 among 3'):
        tiny(encoder_levels=(3,))
    with pytest.raises(ValueError, match='embed_dims = 6 must be a multiple of 4'):
        HybridEncoder([4, 4], embed_dims=6, num_heads=2)
