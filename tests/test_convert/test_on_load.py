# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Published checkpoints loaded as they are, everywhere weights are loaded."""

from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import load_state_dict

from deim_mmdet.convert import to_mmdet_checkpoint

from .published import published_checkpoint, published_state

CONFIGS = Path(__file__).parents[2] / 'configs'
DFINE_N = CONFIGS / 'dfine/dfine_hgnetv2-n_8xb16-160e_coco.py'
DEIM_R18 = CONFIGS / 'deim/deim_rtdetrv2_r18vd_8xb2-120e_coco.py'
# one tensor under its two names
PUBLISHED, OURS = 'decoder.decoder.layers.1.linear1.weight', 'decoder.layers.1.ffn.linear1.weight'


def config(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.fixture(scope='module')
def published_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('published') / 'dfine_n_coco.pth'
    torch.save(published_checkpoint('dfine_hgnetv2_n'), path)
    return path


@pytest.fixture
def model():
    return MODELS.build(config(DFINE_N).model)


def is_loaded(model):
    wanted = published_state('dfine_hgnetv2_n')[PUBLISHED]  # the moving average
    return torch.equal(model.state_dict()[OURS], wanted)


def test_a_model_takes_published_weights(model, published_file, monkeypatch):
    said = []
    monkeypatch.setattr('deim_mmdet.convert.on_load.print_log', lambda text, **_: said.append(text))
    load_checkpoint(model, str(published_file))
    assert is_loaded(model)
    assert said == [
        'Published weights of D-FINE / DEIM-D-FINE (ema.module): 667 tensors converted, 7 not '
        'needed.'
    ]


def test_bare_weights_and_strict_loading(model):
    result = model.load_state_dict(published_state('dfine_hgnetv2_n'))
    assert is_loaded(model) and not result.missing_keys and not result.unexpected_keys


def test_init_detector_and_inferencer(published_file):
    cfg = config(DFINE_N)
    model = init_detector(cfg, str(published_file), device='cpu')
    assert is_loaded(model)
    inferencer = DetInferencer(str(DFINE_N), str(published_file), device='cpu')
    assert is_loaded(inferencer.model)


@pytest.mark.parametrize('hooks', [[], [dict(type='WarmupEMAHook')]])
def test_runner(published_file, tmp_path, hooks):
    cfg = config(DFINE_N)
    runner = Runner(
        cfg.model,
        str(tmp_path),
        custom_hooks=hooks,
        default_scope='mmdet',
        experiment_name=tmp_path.name,
        log_level='WARNING',
    )
    runner.call_hook('before_run')
    runner.load_checkpoint(str(published_file))
    assert is_loaded(runner.model)
    runner.call_hook('before_test_epoch')  # the average takes the place of the model
    assert is_loaded(runner.model)


def test_our_weights_are_left_alone(model, published_file):
    ours = to_mmdet_checkpoint(torch.load(published_file, weights_only=True))['state_dict']
    ours['added'] = torch.zeros(1)
    load_state_dict(model, ours)
    assert is_loaded(model)


def test_published_weights_of_other_classes(published_file):
    cfg = config(DFINE_N)
    cfg.model.bbox_head.num_classes = 3
    model = MODELS.build(cfg.model)
    with pytest.raises(ValueError, match='has 80 classes, the model 3: .*LoadWeightsHook'):
        load_checkpoint(model, str(published_file))


def test_without_denoising_its_weights_are_not_used(published_file):
    cfg = config(DFINE_N)
    cfg.model.denoising = None
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(published_file))
    assert is_loaded(model)


# -- other families and sizes


def test_another_family_is_refused(published_file):
    model = MODELS.build(config(DEIM_R18).model)
    with pytest.raises(
        ValueError,
        match=r'weights of D-FINE / DEIM-D-FINE do not fit the model: \d+ \(backbone.conv1.*missing'
        r'.*Configs that fit: .*deim_dfine_hgnetv2-n.*tools/convert_weights.py',
    ):
        load_checkpoint(model, str(published_file))


def test_another_architecture_is_refused(model):
    """Under our names, as a run here leaves it."""
    ours = to_mmdet_checkpoint(published_state('deim_r18vd_120e'))['state_dict']
    with pytest.raises(
        ValueError, match='another architecture: .*Configs that fit: .*deim_rtdetrv2_r18vd_8xb2'
    ):
        model.load_state_dict(ours)


def test_a_larger_size_is_refused():
    # the weights of R18 have the names and shapes of the first blocks of R34
    published = published_state('deim_r18vd_120e')
    model = MODELS.build(config(DEIM_R18.with_name(DEIM_R18.name.replace('r18', 'r34'))).model)
    with pytest.raises(ValueError, match='do not fit.*that fit: .*deim_rtdetrv2_r18vd_8xb2-120e'):
        model.load_state_dict(published)
    ours = to_mmdet_checkpoint(published)['state_dict']
    with pytest.raises(
        ValueError,
        match='another model size.*backbone.*in the model only.*fit: .*deim_rtdetrv2_r18vd_8xb2',
    ):
        model.load_state_dict(ours)
    # a backbone alone is another matter
    backbone = {key: value for key, value in ours.items() if key.startswith('backbone.')}
    model.load_state_dict(backbone, strict=False)


def test_another_width_is_refused(published_file):
    cfg = config(DFINE_N)
    cfg.model.decoder.ffn_channels = 256
    model = MODELS.build(cfg.model)
    with pytest.raises(
        ValueError, match='another model size: 9 of .*first decoder.layers.0.*that fit: .*dfine'
    ):
        load_checkpoint(model, str(published_file))
