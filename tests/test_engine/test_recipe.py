# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from deim_mmdet.engine.recipe import find_hook, scale_epoch, set_epochs, use_recipe

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
COCO = CONFIGS / 'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py'
FINETUNE = CONFIGS / '_base_/schedules/finetune.py'
YOLOX = 'yolox/yolox_tiny_8xb8-300e_coco.py'

SCALED = [  # epoch, length of its run, new length, new epoch
    (0, 160, 30, 0),
    (4, 160, 30, 1),
    (80, 160, 30, 15),
    (148, 160, 30, 28),
    (159, 160, 30, 29),  # before the end
    (160, 160, 30, 30),
    (200, 160, 30, 30),
    (1, 4, 40, 10),
    (3, 7, 1, 0),
    (7, 7, 1, 1),
]


@pytest.mark.parametrize(('epoch', 'old', 'new', 'expected'), SCALED)
def test_an_epoch_keeps_its_share_of_the_run(epoch, old, new, expected):
    assert scale_epoch(epoch, old, new) == expected


def test_everything_that_counts_in_epochs_follows():
    cfg = Config.fromfile(COCO)
    before = cfg.pretty_text
    new = set_epochs(cfg, 40)
    assert cfg.pretty_text == before
    assert new.train_cfg.max_epochs == new.max_epochs == 40
    assert (new.mosaic_begin, new.mosaic_end, new.plain_end, new.no_aug_epochs) == (1, 20, 37, 3)
    assert new.default_hooks.dense_o2o.stages == (1, 20, 37)
    assert new.default_hooks.two_stage_end.begin == 37
    assert (new.param_scheduler.flat_until, new.param_scheduler.no_aug) == (20, 3)
    assert set_epochs(cfg, 160).pretty_text == before


@pytest.mark.parametrize(
    ('before', 'epochs', 'after'),
    [((24, 48), 10, (2, 5)), ((0, None), 10, (0, None)), ((24, 25), 10, (2, 3))],
)
def test_freezing_keeps_its_share_of_the_run(before, epochs, after):
    hook = dict(type='StagedFreezeHook', parts=['backbone'], begin=before[0], end=before[1])
    cfg = Config(dict(train_cfg=dict(max_epochs=96), custom_hooks=[hook]))
    new = set_epochs(cfg, epochs).custom_hooks[0]
    assert (new.begin, new.end) == after


def test_schedules_of_mmdet():
    cfg = Config(
        dict(
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=1000),
                dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11]),
                dict(type='CosineAnnealingLR', begin=6, end=12, T_max=6, by_epoch=True),
            ],
            custom_hooks=[
                dict(type='PipelineSwitchHook', switch_epoch=10),
                dict(type='DenseO2OHook', stages=(2, 6, 10), mixup=(3, 6)),
            ],
        )
    )
    new = set_epochs(cfg, 24)
    warmup, steps, cosine = new.param_scheduler
    assert warmup.end == 1000
    assert steps.end == 24 and steps.milestones == [16, 22]
    assert (cosine.begin, cosine.end, cosine.T_max) == (12, 24, 12)
    assert new.custom_hooks[0].switch_epoch == 20
    assert new.custom_hooks[1].stages == (4, 12, 20) and new.custom_hooks[1].mixup == (6, 12)


def test_yolox_of_mmdet():
    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs' / YOLOX)
    cfg.train_cfg.dynamic_intervals = [(285, 1)]
    new = set_epochs(cfg, 30)
    # its warm-up of 5 epochs of 300 would be half an epoch long
    assert [(s.type, s.begin, s.end) for s in new.param_scheduler] == [
        ('CosineAnnealingLR', 0, 28),
        ('ConstantLR', 28, 30),
    ]
    assert find_hook(new, 'YOLOXModeSwitchHook').num_last_epochs == 2
    assert new.train_cfg.dynamic_intervals == [(28, 1)]

    tuned = use_recipe(cfg, Config.fromfile(FINETUNE))  # of 30 epochs
    assert find_hook(tuned, 'YOLOXModeSwitchHook').num_last_epochs == 2
    assert find_hook(tuned, 'WarmupEMAHook') and find_hook(tuned, 'EMAHook') is None
    assert find_hook(cfg, 'EMAHook') and find_hook(cfg, 'YOLOXModeSwitchHook').num_last_epochs == 15


PERIODS = [  # begin, end and T_max of 300 epochs, those of a new number of epochs
    ((0, 300, 300), 4, (0, 4, 4)),
    ((150, 300, 150), 7, (4, 7, 3)),
    ((20, 285, 265), 30, (2, 28, 26)),  # ends before the run
    ((20, 285, 265), 4, (0, 3, 3)),
    ((5, 285, 285), 4, (0, 3, 3)),  # YOLOX: its period begins with the run
    ((5, 285, 285), 600, (10, 570, 570)),
    ((0, 300, 50), 30, (0, 30, 5)),  # several periods
    ((0, 300, 50), 1, (0, 1, 1)),
    ((None, None, 300), 30, (None, None, 30)),  # no bounds
    ((0, 285, None), 30, (0, 28, None)),  # T_max is end - begin
]


@pytest.mark.parametrize(('before', 'epochs', 'after'), PERIODS)
def test_a_cosine_keeps_its_part_of_the_period(before, epochs, after):
    names = ('begin', 'end', 'T_max')
    given, expected = (
        {name: value for name, value in zip(names, values) if value is not None}
        for values in (before, after)
    )
    cosine = dict(type='CosineAnnealingLR', **given)
    cfg = Config(dict(train_cfg=dict(max_epochs=300), param_scheduler=[cosine]))
    new = set_epochs(cfg, epochs).param_scheduler[0]
    assert new == dict(type='CosineAnnealingLR', **expected)


BEGINS = [  # what begins with an epoch, counted from 1, of 80; new number of epochs, new epoch
    (1, 160, 1),  # all the time
    (1, 1, 1),
    (71, 8, 8),
    (75, 3, 3),  # before the end
    (41, 40, 21),
    (81, 40, 41),  # never
]


@pytest.mark.parametrize(('epoch', 'epochs', 'expected'), BEGINS)
def test_validation_and_average_begin_with_their_share_of_the_run(epoch, epochs, expected):
    average = dict(type='EMAHook', begin_epoch=epoch)
    cfg = Config(dict(train_cfg=dict(max_epochs=80, val_begin=epoch), custom_hooks=[average]))
    new = set_epochs(cfg, epochs)
    assert new.train_cfg.val_begin == new.custom_hooks[0].begin_epoch == expected
    cfg.custom_hooks[0].begin_epoch = 0  # counts no epochs
    assert set_epochs(cfg, epochs).custom_hooks[0].begin_epoch == 0


@pytest.mark.parametrize('epochs', [1, 2, 3, 7])
def test_short_runs_keep_their_order(epochs):
    new = set_epochs(Config.fromfile(COCO), epochs)
    e0, e1, e2 = new.default_hooks.dense_o2o.stages
    assert 0 <= e0 <= e1 <= e2 < epochs
    assert 1 <= new.param_scheduler.no_aug <= epochs
    assert new.default_hooks.two_stage_end.begin == max(1, e2)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match='at least 1, got 0'):
        set_epochs(Config.fromfile(COCO), 0)
    with pytest.raises(ValueError, match='its train_cfg has no max_epochs'):
        set_epochs(Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=9))), 5)


def test_a_recipe_replaces_the_schedule_alone():
    cfg, recipe = Config.fromfile(COCO), Config.fromfile(FINETUNE)
    before = cfg.pretty_text, recipe.pretty_text
    new = use_recipe(cfg, recipe)
    assert (cfg.pretty_text, recipe.pretty_text) == before
    for name in ('model', 'train_dataloader', 'val_evaluator'):
        assert new[name] == cfg[name]
    for name in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'plain_end'):
        assert new[name] == recipe[name]
    new.max_epochs = 5
    assert recipe.max_epochs == 30


def test_a_recipe_for_a_config_with_hooks_of_its_own():
    mine = dict(type='Mine')
    cfg = Config(
        dict(
            default_hooks=dict(average=dict(type='WarmupEMAHook', warmup=7), mine=mine),
            custom_hooks=[dict(type='TwoStageEndHook', begin=1), dict(type='Other')],
        )
    )
    new = use_recipe(cfg, Config.fromfile(FINETUNE))
    assert new.custom_hooks == [dict(type='Other')]
    assert new.default_hooks.mine == mine and 'average' not in new.default_hooks
    assert find_hook(new, 'WarmupEMAHook').warmup == 1000
    assert find_hook(new, 'TwoStageEndHook').begin == new.plain_end
    # there is no DenseO2O to steer
    assert find_hook(new, 'DenseO2OHook') is None
