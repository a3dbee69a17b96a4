# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os.path as osp

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from deim_mmdet.engine import FlatCosineLR
from deim_mmdet.engine.flat_cosine_lr import flat_cosine_factor

from .toy import ITERS_PER_EPOCH, make_runner

FIXTURE = osp.join(osp.dirname(__file__), '..', 'fixtures', 'lr_flat_cosine.npz')


@pytest.mark.parametrize(
    'iteration, factor',
    [
        (0, 0.0),
        (5, 0.25),  # (5 / 10)^2
        (10, 1.0),
        (11, 1.0),
        (39, 1.0),
        (40, 1.0),  # cosine from 40 to 80: progress 0
        (50, 0.25 + 0.75 * (1 + 2**-0.5) / 2),  # a quarter: cos 45 degrees
        (60, 0.25 + 0.75 / 2),  # half way
        (80, 0.25),
        (99, 0.25),
    ],
)
def test_factor_by_hand(iteration, factor):
    assert flat_cosine_factor(iteration, 10, 40, 80, 0.25) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize('iteration, factor', [(0, 1.0), (99, 1.0), (10**6, 1.0)])
def test_factor_without_warm_up_and_without_cosine(iteration, factor):
    assert flat_cosine_factor(iteration, 0, 10**7, 100, 1.0) == factor


def make_scheduler(base_lrs, **kwargs):
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=float(lr)) for lr in base_lrs]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    return optimizer, FlatCosineLR.build_iter_from_epoch(optimizer, **kwargs)


def lrs(optimizer):
    return [group['lr'] for group in optimizer.param_groups]


@pytest.mark.parametrize('name', ['n', 'l', 'r50'])
def test_curve_is_the_published_one(name):
    g = {
        key[len(name) + 1 :]: value
        for key, value in np.load(FIXTURE).items()
        if key.startswith(name)
    }
    optimizer, scheduler = make_scheduler(
        g['base_lr'],
        flat_until=int(g['flat_epoch']),
        no_aug=int(g['no_aug_epoch']),
        gamma=float(g['lr_gamma']),
        warmup=int(g['warmup_iter']),
        first_factor=1 / 2000 if name == 'r50' else 1 / 500,
        epoch_length=int(g['iters_per_epoch']),
        end=int(g['epochs']),
    )
    assert lrs(optimizer) == pytest.approx(g['lr_first_iteration'], rel=1e-15)
    wanted = dict(zip(g['iters'].tolist(), g['lr']))
    optimizer.step()
    for iteration in range(3000):  # every step of the warm-up and beyond
        scheduler.step()
        if iteration in wanted:
            assert lrs(optimizer) == pytest.approx(wanted[iteration], rel=1e-14, abs=0)
    for iteration, wanted_lrs in wanted.items():  # the rest, without walking 160,000 steps
        factor = flat_cosine_factor(
            iteration,
            scheduler.warmup,
            scheduler.flat_until,
            scheduler.decay_until,
            scheduler.gamma,
        )
        assert factor * g['base_lr'] == pytest.approx(wanted_lrs, rel=1e-14, abs=0)


@pytest.mark.parametrize(
    'epochs, epoch_length, warmup, expected',
    [
        (160, 924, 2000, 2000),  # COCO, DEIM-D-FINE-N
        (58, 3696, 2000, 2000),  # COCO, DEIM-D-FINE-L
        (20, 40, 2000, 80),  # a tenth of a short run
        (1, 5, 2000, 0),
        (24, 3696, 0, 0),  # none: Objects365 -> COCO
    ],
)
def test_warm_up_is_bounded_by_the_run(epochs, epoch_length, warmup, expected):
    optimizer, scheduler = make_scheduler(
        [0.1], flat_until=1, epoch_length=epoch_length, end=epochs, warmup=warmup
    )
    assert scheduler.warmup == expected
    assert lrs(optimizer) == [0.1 / 500 if expected else 0.1]


class LrRecorder(Hook):
    """Notes the learning rate that each iteration uses."""

    def __init__(self):
        self.lrs = {}

    def before_train_iter(self, runner, **kwargs):
        self.lrs[runner.iter] = runner.optim_wrapper.param_groups[0]['lr']


SCHEDULE = dict(
    type='FlatCosineLR',
    convert_to_iter_based=True,
    flat_until=4,
    no_aug=2,
    gamma=0.5,
    max_warmup_share=0.25,
)


def test_in_a_runner(tmp_path):
    recorder = LrRecorder()
    make_runner(tmp_path, 8, custom_hooks=[recorder], param_scheduler=SCHEDULE).train()
    total = 8 * ITERS_PER_EPOCH
    expected = [flat_cosine_factor(t - 1, total // 4, 12, 18, 0.5) for t in range(1, total)]
    assert [recorder.lrs[t] / 0.01 for t in range(total)] == pytest.approx([1 / 500, *expected])


def test_resume_in_the_middle(tmp_path):
    whole, resumed = LrRecorder(), LrRecorder()
    make_runner(tmp_path, 8, custom_hooks=[whole], param_scheduler=SCHEDULE).train()
    make_runner(
        tmp_path,
        8,
        custom_hooks=[resumed],
        param_scheduler=SCHEDULE,
        load_from=str(tmp_path / 'epoch_5.pth'),
        resume=True,
    ).train()
    assert min(resumed.lrs) == 15
    assert resumed.lrs == {t: lr for t, lr in whole.lrs.items() if t >= 15}


def test_resume_to_go_on_for_longer(tmp_path):
    make_runner(tmp_path, 4, param_scheduler=dict(SCHEDULE, flat_until=1, no_aug=1)).train()
    longer, whole = LrRecorder(), LrRecorder()
    path = str(tmp_path / 'epoch_4.pth')
    schedule = dict(SCHEDULE, flat_until=5)
    make_runner(
        tmp_path, 8, custom_hooks=[longer], param_scheduler=schedule, load_from=path, resume=True
    ).train()
    make_runner(tmp_path / 'b', 8, custom_hooks=[whole], param_scheduler=schedule).train()
    assert longer.lrs == {t: lr for t, lr in whole.lrs.items() if t >= 12}


def test_in_iterations(tmp_path):
    recorder = LrRecorder()
    schedule = dict(type='FlatCosineLR', by_epoch=False, flat_until=12, no_aug=6, warmup=6,
                    max_warmup_share=0.25)  # fmt: skip
    make_runner(tmp_path, 8, custom_hooks=[recorder], param_scheduler=schedule).train()
    assert recorder.lrs[7] == pytest.approx(0.01)  # end of the warm-up
    assert recorder.lrs[23] == pytest.approx(0.005)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(by_epoch=True), 'convert_to_iter_based=True'),
        (dict(end=10**9), 'must know its length'),
        (dict(begin=3), 'leave out begin'),
        (dict(no_aug=101), 'no_aug=101'),
        (dict(warmup=-1), 'warmup=-1'),
        (dict(max_warmup_share=0), 'max_warmup_share=0'),
    ],
)
def test_refuses(changes, message):
    kwargs = dict(flat_until=10, end=100, by_epoch=False)
    kwargs.update(changes)
    with pytest.raises(ValueError, match=message):
        FlatCosineLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), **kwargs)


def test_refuses_epochs_that_are_not_converted(tmp_path):
    schedule = dict(SCHEDULE)
    schedule.pop('convert_to_iter_based')
    with pytest.raises(ValueError, match='convert_to_iter_based=True'):
        make_runner(tmp_path, 8, param_scheduler=schedule).train()
