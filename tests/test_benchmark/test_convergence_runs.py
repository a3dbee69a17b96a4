# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest

from deim_mmdet.benchmark.convergence_curves import Epoch, RunName
from deim_mmdet.benchmark.convergence_runs import (
    PRESETS,
    Setup,
    build_config,
    checkpoint,
    resumable,
)

CONFIGS = Path(__file__).parents[2] / 'configs' / 'deim'


def setup_of(preset: str) -> Setup:
    names = ('size', 'scenes', 'val_scenes', 'epochs', 'batch_size')
    defaults = {name: getattr(PRESETS[preset], name) for name in names}
    return Setup(preset=preset, cfg_options={}, **defaults)


@pytest.mark.parametrize('preset, detector', [('cpu', 'rtdetrv2-atto'), ('gpu', 'dfine-s')])
def test_variants_differ_in_nothing_else(preset, detector):
    setup = setup_of(preset)

    def plain(variant):
        run = RunName(detector, variant, 1)
        cfg = build_config(CONFIGS, setup, run, Path('work'))
        parts = dict(
            mosaic_prob=cfg.train_dataloader.dataset.pipeline[0].pop('mosaic_prob'),
            mixup=cfg.model.data_preprocessor.pop('batch_augments'),
            loss_cls=cfg.model.bbox_head.pop('loss_cls', {}).get('type', 'MatchabilityAwareLoss'),
        )
        for name in ('experiment_name', 'visualizer', 'work_dir'):
            cfg.pop(name)
        return cfg, parts

    both, parts = plain('both')
    mixup = [dict(type='BatchMixUp', prob=0.5)]
    assert parts == dict(mosaic_prob=0.5, mixup=mixup, loss_cls='MatchabilityAwareLoss')
    for variant, dense_o2o, mal in [
        ('baseline', False, False),
        ('dense-o2o', True, False),
        ('mal', False, True),
    ]:
        cfg, parts = plain(variant)
        assert cfg.to_dict() == both.to_dict()
        assert bool(parts['mosaic_prob']) == bool(parts['mixup']) == dense_o2o
        assert (parts['loss_cls'] == 'MatchabilityAwareLoss') == mal
    half, parts = plain('both-half')
    assert half.train_cfg.max_epochs * 2 == both.train_cfg.max_epochs == setup.epochs
    assert half.train_dataloader == both.train_dataloader and half.model == both.model
    options = both.train_dataloader.dataset.dataset.options
    assert options.image_hw == (setup.size, setup.size) and options.num_train == setup.scenes


@pytest.mark.parametrize(
    'epochs, stages', [(58, (4, 29, 50)), (12, (1, 6, 10)), (2, (0, 1, 1)), (1, (0, 0, 0))]
)
def test_stages_keep_their_share(epochs, stages):
    setup = replace(setup_of('cpu'), epochs=epochs)
    run = RunName('dfine-atto', 'both', 0)
    cfg = build_config(CONFIGS, setup, run, Path('work'))
    assert cfg.default_hooks.dense_o2o.stages == stages
    assert cfg.default_hooks.two_stage_end.begin == max(1, stages[2])
    assert cfg.param_scheduler.flat_until == stages[1]
    assert cfg.param_scheduler.no_aug == epochs - stages[2]


def test_changes_of_the_configs_reach_all_but_what_makes_a_variant():
    options = {'optim_wrapper.optimizer.lr': 1e-4, 'train_dataloader.dataset.pipeline.0': {}}
    options['train_dataloader.dataset.pipeline.0']['mosaic_prob'] = 0.25
    setup = replace(setup_of('cpu'), cfg_options=options)
    for variant, mosaic_prob in (('both', 0.25), ('mal', 0)):
        run = RunName('dfine-atto', variant, 0)
        cfg = build_config(CONFIGS, setup, run, Path('work'))
        assert cfg.optim_wrapper.optimizer.lr == 1e-4
        assert cfg.train_dataloader.dataset.pipeline[0].mosaic_prob == mosaic_prob


def test_resumes_where_there_is_a_checkpoint_of_what_is_evaluated(tmp_path):
    epochs = [Epoch(i, 0.1, 0.2, 0.1, 3.0, 1.0, 1.0, 1, 2, 3) for i in (1, 2, 3)]
    assert resumable(epochs, tmp_path) == []
    for saved, expected in (((2,), 2), ((2, 3), 3), ((3, 4), 3)):
        for path in tmp_path.iterdir():
            path.unlink()
        for epoch in saved:
            checkpoint(tmp_path, epoch).touch()
        assert resumable(epochs, tmp_path) == epochs[:expected]
