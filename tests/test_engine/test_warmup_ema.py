# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import os.path as osp

import numpy as np
import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.hooks import Hook
from torch import nn

from deim_mmdet.engine import WarmupEMA, WarmupEMAHook
from deim_mmdet.engine.warmup_ema import warmup_decay

from .toy import ITERS_PER_EPOCH, ToyModel, make_runner

FIXTURE = osp.join(osp.dirname(__file__), '..', 'fixtures', 'ema.npz')


class OneWeight(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))


@pytest.mark.parametrize('warmup', [0, 1000, 2000])
def test_curve_is_the_published_one(warmup):
    g = {
        key.split('.')[1]: value for key, value in np.load(FIXTURE).items() if f'p{warmup}.' in key
    }
    decays = [warmup_decay(int(update), 0.9999, warmup) for update in g['updates']]
    assert decays == pytest.approx(g['decay'], rel=1e-12)

    # a weight that jumps from 0 to 1 before the first update
    ema = WarmupEMA(OneWeight(0.0), decay=0.9999, warmup=warmup)
    source, values = OneWeight(1.0), {}
    for update in range(1, 5001):
        ema.update_parameters(source)
        values[update] = ema.module.weight.item()
    wanted = dict(zip(g['value_updates'].tolist(), g['value']))
    assert [values[update] for update in wanted] == pytest.approx(list(wanted.values()), rel=1e-9)


def test_statistics_of_batch_norm_are_averaged_and_caches_are_not():
    model = ToyModel()
    ema = WarmupEMA(model, decay=0.5, warmup=0)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    model.cache = torch.ones(7)  # no part of the state
    ema.update_parameters(model)
    for key, value in ema.module.state_dict().items():
        moved = 0.5 if value.is_floating_point() else 0  # num_batches_tracked stays
        assert torch.allclose(value - before[key], torch.full_like(value, moved)), key
    assert ema.module.cache.shape == (0,)


def test_follows_mmdets_average_after_its_first_update():
    torch.manual_seed(0)
    source = ToyModel()
    ours = WarmupEMA(source, decay=0.99, warmup=10)
    theirs = ExpMomentumEMA(source, momentum=0.01, gamma=10, update_buffers=True)
    for step in range(30):
        with torch.no_grad():
            for param in source.parameters():
                param.add_(torch.randn_like(param))
        if step == 0:
            ours.copy_from(source)  # mmdet copies in its first update
            ours.steps += 1
        else:
            ours.update_parameters(source)
        theirs.update_parameters(source)
    for a, b in zip(ours.module.parameters(), theirs.module.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'num_updates, decay, warmup',
    [
        # published lengths: nothing changes
        (160 * 924, 0.9999, 1000),  # N, the shortest run of many epochs
        (24 * 3696, 0.9999, 1000),  # X, Objects365 -> COCO, the shortest of all
        (20_000, 1 - 1 / 2500, 1000),  # window 1/8 of the run
        (800, 0.99, 40),  # window 100 updates, warm-up 1/20 of the run
        (8, 0.0, 0.4),  # a window of one: the average is the model
    ],
)
def test_constants_fit_the_run(num_updates, decay, warmup):
    ema = WarmupEMA(OneWeight(0.0), decay=0.9999, warmup=1000)
    for _ in range(2):  # a second time changes nothing
        ema.fit_to_run(num_updates)
    assert ema.warmup == pytest.approx(warmup)
    assert ema.decay_at(10**9) == pytest.approx(decay)
    # a decay that is lowered to half the window halves it in a short run, too
    ema.decay = 0.9998
    assert 1 - ema.decay_at(10**9) == pytest.approx(min(1, 2 * (1 - decay)))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(decay=1.0), 'decay=1.0'),
        (dict(warmup=-1), 'warmup=-1'),
        (dict(max_window_share=0), 'max_window_share=0'),
        (dict(max_warmup_share=2), 'max_warmup_share=2'),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        WarmupEMA(OneWeight(0.0), **kwargs)


# -------------------------------------------------------------------------------- in a Runner


class Probe(Hook):
    """Notes the weight of the head that is trained, and the one that is evaluated."""

    def __init__(self):
        self.first, self.trained, self.evaluated = None, [], []

    def before_train_iter(self, runner, **kwargs):
        if self.first is None:
            self.first = runner.model.head.weight.detach().clone()

    def after_train_iter(self, runner, **kwargs):
        self.trained.append(runner.model.head.weight.detach().clone())

    def before_val_iter(self, runner, **kwargs):
        self.evaluated.append(runner.model.head.weight.detach().clone())


class LateInit(ToyModel):
    """Weights that only ``init_weights`` sets, as those of a pretrained backbone."""

    def init_weights(self):
        nn.init.constant_(self.head.weight, 3.0)


def test_evaluates_the_average(tmp_path):
    hook, probe = WarmupEMAHook(decay=0.9, warmup=0, max_window_share=1.0), Probe()
    runner = make_runner(tmp_path, 4, [0, 0, 0, 0], model=LateInit(), custom_hooks=[hook, probe])
    runner.train()
    average = probe.first
    assert (average == 3.0).all()  # not what the constructor left there
    averages = [average := 0.9 * average + 0.1 * weight for weight in probe.trained]
    per_epoch = averages[ITERS_PER_EPOCH - 1 :: ITERS_PER_EPOCH]
    for seen, expected in zip(probe.evaluated[:: len(probe.evaluated) // 4], per_epoch):
        torch.testing.assert_close(seen, expected)
    # training went on with its own weights
    torch.testing.assert_close(runner.model.head.weight.detach(), probe.trained[-1])
    # what others load from the checkpoint is the average
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    torch.testing.assert_close(checkpoint['state_dict']['head.weight'], averages[-1])


def test_resume_in_the_middle(tmp_path):
    whole = make_runner(tmp_path, 6, custom_hooks=[WarmupEMAHook(max_window_share=1.0)])
    whole.train()
    hook = WarmupEMAHook(max_window_share=1.0)
    resumed = make_runner(
        tmp_path, 6, custom_hooks=[hook], load_from=str(tmp_path / 'epoch_2.pth'), resume=True
    )
    resumed.train()
    averages = [next(h for h in r.hooks if isinstance(h, WarmupEMAHook)) for r in (whole, resumed)]
    assert int(averages[1].ema_model.steps) == 6 * ITERS_PER_EPOCH
    for a, b in zip(*(h.ema_model.state_dict().values() for h in averages)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_tests_a_checkpoint(tmp_path):
    make_runner(tmp_path, 1, custom_hooks=[WarmupEMAHook()]).train()
    probe = Probe()
    runner = make_runner(
        tmp_path, 1, [0.5], custom_hooks=[WarmupEMAHook(), probe],
        load_from=str(tmp_path / 'epoch_1.pth'),
    )  # fmt: skip
    runner._train_loop = None
    runner.val_loop.evaluator.metrics[0].compute_metrics = lambda results: dict(bbox_mAP=0.5)
    assert runner.val() == {'coco/bbox_mAP': 0.5}
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    torch.testing.assert_close(probe.evaluated[0], state['head.weight'])
