# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmengine.hooks import Hook

from deim_mmdet.engine import NonFiniteLossHook, WarmupEMAHook
from deim_mmdet.engine.non_finite_loss_hook import image_paths, non_finite_entries

from .toy import ITERS_PER_EPOCH, ToyModel, make_runner


class Watch(Hook):
    """Notes the state before each iteration."""

    def before_train_iter(self, runner, **kwargs):
        self.state = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.moment = [
            {k: v.clone() for k, v in state.items()}
            for state in runner.optim_wrapper.optimizer.state.values()
        ]


def run(tmp_path, iteration, value=float('nan'), hooks=(), model=None, epochs=4):
    model = model or ToyModel()
    model.poison = (iteration, value)
    watch = Watch()
    runner = make_runner(
        tmp_path, epochs, model=model, custom_hooks=[NonFiniteLossHook(), watch, *hooks]
    )
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    return runner, watch, str(error.value)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('hooks', [(), (WarmupEMAHook(),)], ids=['plain', 'average'])
def test_stops_before_the_step_and_saves_the_state(tmp_path, value, hooks):
    iteration = ITERS_PER_EPOCH + 1
    runner, watch, message = run(tmp_path, iteration, value, hooks)
    assert 'epoch 1, iteration 4' in message
    assert f'loss_b = {value}' in message
    assert 'loss_a' not in message and 'loss = ' not in message and 'acc' not in message
    assert message.count('.jpg') == 4
    assert 'before_non_finite_loss.pth' in message

    checkpoint = torch.load(tmp_path / 'before_non_finite_loss.pth', weights_only=False)
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (1, iteration)
    saved = checkpoint['state_dict']
    if hooks:
        saved = {k[7:]: v for k, v in checkpoint['ema_state_dict'].items() if k[:7] == 'module.'}
    for key, kept in watch.state.items():
        if not key.endswith('num_batches_tracked'):
            torch.testing.assert_close(saved[key], kept, rtol=0, atol=0)
    for state, kept in zip(checkpoint['optimizer']['state'].values(), watch.moment):
        torch.testing.assert_close(state['exp_avg'], kept['exp_avg'], rtol=0, atol=0)


def test_saved_state_can_be_resumed(tmp_path):
    run(tmp_path, ITERS_PER_EPOCH + 1)
    path = str(tmp_path / 'before_non_finite_loss.pth')
    runner = make_runner(tmp_path, 3, load_from=path, resume=True)
    runner.train()
    assert runner.epoch == 3


class BadImage(ToyModel):
    """The image itself is NaN, so the statistics of batch norm are, too."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = torch.stack(inputs)
        if self.calls == 4:
            inputs = inputs * float('nan')
        return super().forward(inputs, data_samples, mode)


def test_statistics_of_batch_norm_are_put_back(tmp_path):
    _, watch, message = run(tmp_path, -1, model=BadImage())
    assert 'loss_a = nan, loss_b = nan' in message
    saved = torch.load(tmp_path / 'before_non_finite_loss.pth', weights_only=False)['state_dict']
    assert torch.equal(saved['backbone.1.running_mean'], watch.state['backbone.1.running_mean'])


class BadWeight(Hook):
    def before_train_iter(self, runner, **kwargs):
        if runner.iter == self.iteration:
            runner.model.head.weight.data.fill_(float('nan'))


@pytest.mark.parametrize('iteration, last', [(4, 'epoch_1.pth'), (1, 'no checkpoint')])
def test_names_the_last_checkpoint_when_the_weights_are_broken(tmp_path, iteration, last):
    bad = BadWeight()
    bad.iteration = iteration
    _, _, message = run(tmp_path, -1, hooks=[bad])
    assert 'no longer finite (head.weight' in message and last in message
    assert not (tmp_path / 'before_non_finite_loss.pth').exists()


def test_changes_nothing_otherwise(tmp_path):
    guarded = make_runner(tmp_path / 'a', 2, custom_hooks=[NonFiniteLossHook()])
    guarded.train()
    plain = make_runner(tmp_path / 'b', 2)
    plain.train()
    for a, b in zip(guarded.model.parameters(), plain.model.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    scalars = [r.message_hub.log_scalars for r in (guarded, plain)]
    for name in ('train/loss', 'train/loss_a', 'train/loss_b'):
        assert scalars[0][name].current() == pytest.approx(scalars[1][name].current())
    assert math.isnan(scalars[0]['train/acc'].current())  # logged, and no loss
    assert 'parse_losses' not in vars(guarded.model)


def test_names_all_images_of_a_mosaic():
    sample = dict(img_path='a.jpg', mix_img_paths=['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'])

    class Sample:
        def __init__(self, metainfo):
            self.metainfo = metainfo

    batch = dict(data_samples=[Sample(sample), Sample(dict(img_path='e.jpg')), Sample({})])
    assert image_paths(batch) == [['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'], 'e.jpg', 'unknown']
    assert image_paths(None) == []


def test_finds_entries_that_are_not_finite():
    model = ToyModel()
    assert non_finite_entries(model) == []
    model.backbone[1].running_var[0] = float('inf')
    assert non_finite_entries(model) == ['backbone.1.running_var']
