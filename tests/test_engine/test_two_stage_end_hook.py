# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import shutil

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger

from deim_mmdet.engine import TwoStageEndHook, WarmupEMAHook

from .toy import ITERS_PER_EPOCH, make_runner

BEGIN = 3  # first epoch of the second stage
#         epochs 0..2   the best is that of epoch 1
SCORES = [0.1, 0.3, 0.2, 0.35, 0.3, 0.2, 0.25, 0.25, 0.1]
SCHEDULE = dict(type='FlatCosineLR', convert_to_iter_based=True, flat_until=4, no_aug=1)


class Journal(Hook):
    """Notes weights, average, moments, rate and decay at both ends of every epoch."""

    def __init__(self, stop_at=None):
        self.begin, self.end = {}, {}
        self.stop_at = stop_at

    def before_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 0:
            self.begin[runner.epoch] = take(runner)
        if (runner.epoch, batch_idx) == self.stop_at:
            raise KeyboardInterrupt

    def after_train_epoch(self, runner):
        self.end[runner.epoch] = take(runner)


def take(runner):
    ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    optimizer = runner.optim_wrapper.optimizer
    weight = runner.model.head.weight
    return dict(
        weight=weight.detach().clone(),
        average=ema.module.head.weight.clone(),
        variance=runner.model.backbone[1].running_var.clone(),
        moment=optimizer.state.get(weight, {}).get('exp_avg', torch.zeros(1)).clone(),
        rate=torch.tensor(optimizer.param_groups[0]['lr']),
        decay=torch.tensor(ema.decay),
        steps=ema.steps.clone(),
        iter=torch.tensor(runner.iter),
    )


def run(work_dir, scores=SCORES, epochs=None, stop_at=None, hook=None, **cfg):
    journal = Journal(stop_at)
    runner = make_runner(
        work_dir,
        epochs or len(scores),
        scores,
        param_scheduler=SCHEDULE,
        custom_hooks=[
            WarmupEMAHook(decay=0.99, max_window_share=1.0),
            hook or TwoStageEndHook(begin=BEGIN, restart_decay=0.98, decay_step=0.01),
            journal,
        ],
        **cfg,
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    return runner, journal


def assert_same(a, b, keys):
    for key in keys:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, msg=key)


EVERYTHING = ('weight', 'average', 'variance', 'moment', 'steps')


def test_goes_back_to_the_best_of_the_first_stage(tmp_path):
    _, journal = run(tmp_path)
    best = journal.end[1]  # 0.3, the best before epoch 3
    # epoch: decay while it is trained, whether it begins from the best
    expected = {
        0: (0.99, False),
        1: (0.99, False),
        2: (0.99, False),
        3: (0.98, True),  # the second stage begins
        4: (0.98, False),  # 0.35 is better than 0.3
        5: (0.97, True),  # 0.3 is not better than 0.35
        6: (0.97, False),  # 0.2 is the first with this decay
        7: (0.97, False),  # 0.25 is better
        8: (0.96, True),  # 0.25 again is not
    }
    for epoch, (decay, reloaded) in expected.items():
        begin = journal.begin[epoch]
        assert begin['decay'].item() == pytest.approx(decay), epoch
        if epoch > 0:
            assert_same(begin, best if reloaded else journal.end[epoch - 1], EVERYTHING)
        # iterations and the learning rate go on whatever is loaded
        assert begin['iter'].item() == epoch * ITERS_PER_EPOCH
    # the checkpoint of an epoch that was not better holds what was trained in it
    saved = torch.load(tmp_path / 'epoch_5.pth', weights_only=False)
    torch.testing.assert_close(saved['state_dict']['head.weight'], journal.end[4]['average'])
    torch.testing.assert_close(
        saved['ema_state_dict']['module.head.weight'], journal.end[4]['weight']
    )
    rates = [journal.begin[epoch]['rate'].item() for epoch in range(4, 9)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 5


@pytest.mark.parametrize('epoch', range(1, len(SCORES)))
def test_resume_after_a_kill_in_the_middle_of_an_epoch(tmp_path, epoch):
    whole_dir, killed_dir = tmp_path / 'whole', tmp_path / 'killed'
    whole_runner, whole = run(whole_dir)
    run(killed_dir, stop_at=(epoch, 1))
    assert not os.path.exists(killed_dir / f'epoch_{epoch + 1}.pth')
    # a work directory may be moved between two runs
    moved = shutil.move(killed_dir, tmp_path / 'moved')
    runner, journal = run(moved, load_from=str(moved / f'epoch_{epoch}.pth'), resume=True)

    assert min(journal.begin) == epoch
    for later in journal.begin:
        keys = (*EVERYTHING, 'rate', 'decay', 'iter')
        assert_same(journal.begin[later], whole.begin[later], keys)
        assert_same(journal.end[later], whole.end[later], keys)
    assert_same(take(runner), take(whole_runner), EVERYTHING)


def test_the_last_epoch_stays_as_it_was_trained(tmp_path):
    runner, journal = run(tmp_path, [0.1, 0.3, 0.2, 0.35, 0.2])
    assert_same(take(runner), journal.end[4], EVERYTHING)


def test_best_checkpoint_of_the_checkpoint_hook_is_what_was_evaluated(tmp_path):
    # another rule finds its best in an evaluation that sends the second stage back
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='coco/bbox_mAP',
                                 rule='less'))  # fmt: skip
    _, journal = run(tmp_path, [0.3, 0.4, 0.2, 0.5, 0.1, 0.2], default_hooks=hooks)
    assert journal.begin[5]['decay'].item() == pytest.approx(0.97)  # 0.1 sent it back
    best = torch.load(tmp_path / 'best_coco_bbox_mAP_epoch_5.pth', weights_only=False)
    torch.testing.assert_close(best['state_dict']['head.weight'], journal.end[4]['average'])


def test_less_is_better(tmp_path):
    hook = TwoStageEndHook(begin=2, restart_decay=0.98, decay_step=0.01, rule='less')
    _, journal = run(tmp_path, [0.3, 0.4, 0.2, 0.3, 0.1], hook=hook)
    assert_same(journal.begin[2], journal.end[0], EVERYTHING)
    decays = [round(journal.begin[epoch]['decay'].item(), 4) for epoch in range(5)]
    assert decays == [0.99, 0.99, 0.98, 0.98, 0.97]


def test_without_an_evaluation_before_the_second_stage(tmp_path):
    hook = TwoStageEndHook(begin=0, restart_decay=0.98, decay_step=0.01)
    _, journal = run(tmp_path, [0.3, 0.2, 0.1], hook=hook)
    # nothing to go back to: training goes on, and the decay is lowered all the same
    assert_same(journal.begin[2], journal.end[1], EVERYTHING)
    decays = [round(journal.begin[epoch]['decay'].item(), 4) for epoch in range(3)]
    assert decays == [0.98, 0.98, 0.97]


def test_gradient_scaler_goes_back(tmp_path):
    wrapper = dict(
        type='AnyDeviceAmpOptimWrapper',
        dtype='bfloat16',
        optimizer=dict(type='AdamW', lr=0.01),
    )
    _, journal = run(tmp_path, optim_wrapper=wrapper)
    assert_same(journal.begin[BEGIN], journal.end[1], EVERYTHING)
    assert (
        'loss_scaler' in torch.load(tmp_path / 'best_stage1.pth', weights_only=False)['optimizer']
    )


def test_evaluation_alone_changes_nothing(tmp_path):
    run(tmp_path, SCORES[:2])
    hooks = [WarmupEMAHook(), TwoStageEndHook(begin=0)]
    runner = make_runner(
        tmp_path, 2, SCORES, custom_hooks=hooks, load_from=str(tmp_path / 'epoch_2.pth')
    )
    saved = (tmp_path / 'best_stage1.pth').stat().st_mtime_ns
    runner.val_loop.evaluator.metrics[0].compute_metrics = lambda results: dict(bbox_mAP=0.5)
    assert runner.val() == {'coco/bbox_mAP': 0.5}
    assert isinstance(runner._train_loop, dict)  # not even built
    assert (tmp_path / 'best_stage1.pth').stat().st_mtime_ns == saved


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(begin=-1), 'begin=-1'),
        (dict(begin=1, restart_decay=1.0), 'restart_decay=1.0'),
        (dict(begin=1, decay_step=-1e-4), 'decay_step=-0.0001'),
        (dict(begin=1, rule='higher'), "'greater' or 'less'"),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TwoStageEndHook(**kwargs)


def test_refuses_a_run_without_average(tmp_path):
    with pytest.raises(ValueError, match='WarmupEMAHook'):
        make_runner(tmp_path, 2, [0, 0], custom_hooks=[TwoStageEndHook(begin=1)]).train()


def test_refuses_a_metric_that_is_not_there(tmp_path):
    hook = TwoStageEndHook(begin=1, metric='pascal_voc/mAP')
    with pytest.raises(ValueError, match="'pascal_voc/mAP', but the evaluation gave .*bbox_mAP"):
        run(tmp_path, [0, 0], hook=hook)


def test_a_second_stage_beyond_the_run_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, message, *args: told.append(message))
    for begin in (1, 2):
        run(tmp_path, SCORES[:2], hook=TwoStageEndHook(begin=begin))
    (message,) = [message for message in told if 'the second stage begins' in message]
    assert 'begins in epoch 2, but the run ends after 2' in message
