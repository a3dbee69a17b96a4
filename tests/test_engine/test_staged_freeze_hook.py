# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import Dataset

from deim_mmdet.engine import StagedFreezeHook, WarmupEMAHook
from deim_mmdet.engine.staged_freeze_hook import (
    find_part,
    freeze,
    hold_trainable_parameters,
    is_frozen_in,
    thaw,
)
from tests.test_models.samples import data_samples

from .toy import ToyModel, make_runner


def state_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


class Watch(Hook):
    """Notes the backbone, what the optimiser holds and the modes, at the end of each epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.backbones, self.held, self.norm_modes, self.wanted = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        backbone = getattr(runner.model, 'module', runner.model).backbone
        if batch_idx == 0:
            self.norm_modes.append((backbone.training, backbone[1].training))

    def after_train_epoch(self, runner):
        backbone = getattr(runner.model, 'module', runner.model).backbone
        self.backbones.append(state_of(backbone))
        groups = runner.optim_wrapper.optimizer.param_groups
        self.held.append(sum(len(group['params']) for group in groups))
        self.wanted.append(any(p.requires_grad for p in backbone.parameters()))


def run(folder, epochs, *hooks, **cfg):
    watch = Watch()
    runner = make_runner(folder, epochs, custom_hooks=[*hooks, watch], **cfg)
    start = state_of(runner.model)
    runner.train()
    return runner, watch, start


@pytest.mark.parametrize(
    ('begin', 'end', 'expected'),
    [
        (0, None, 'FFFFF'),  # from the start, for good
        (0, 2, 'FF...'),  # thawed later
        (3, None, '...FF'),
        (1, 3, '.FF..'),
        (9, None, '.....'),  # after the run
    ],
)
def test_epochs(begin, end, expected):
    assert ''.join('.F'[is_frozen_in(epoch, begin, end)] for epoch in range(5)) == expected


@pytest.mark.parametrize(('begin', 'end'), [(0, None), (0, 2), (1, None), (1, 3)])
def test_frozen_epochs_change_no_bit_and_others_do(tmp_path, begin, end):
    _, watch, start = run(tmp_path, 4, StagedFreezeHook(['backbone'], begin, end))
    before = {key[len('backbone.') :]: start[key] for key in start if key.startswith('backbone.')}
    for epoch, after in enumerate(watch.backbones):
        is_frozen = is_frozen_in(epoch, begin, end)
        assert same(before, after) == is_frozen, epoch
        assert watch.held[epoch] == (2 if is_frozen else 6)  # of head, of all
        assert watch.wanted[epoch] != is_frozen
        assert watch.norm_modes[epoch] == (True, not is_frozen)
        before = after


def test_average_of_frozen_tensors_changes_no_bit(tmp_path):
    ema = WarmupEMAHook(decay=0.9)
    amp = dict(type='AnyDeviceAmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.01))
    runner, _, start = run(
        tmp_path, 2, StagedFreezeHook(['backbone']), ema, optim_wrapper=amp, scores=[0.1, 0.2]
    )
    for module in (runner.model, ema.ema_model.module):
        own = state_of(module)
        assert all(torch.equal(own[key], start[key]) for key in own if key.startswith('backbone.'))
        assert not torch.equal(own['head.weight'], start['head.weight'])
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert saved['frozen_parts'] == ['backbone']
    assert len(saved['optimizer']['param_groups'][0]['params']) == 2


@pytest.mark.parametrize('stop', [1, 2, 3])
@pytest.mark.parametrize(('begin', 'end'), [(0, None), (0, 2), (1, 3), (2, None)])
def test_resumed_run_is_the_whole_run(tmp_path, begin, end, stop):
    def hook():
        return StagedFreezeHook(['backbone'], begin, end)

    whole, _, _ = run(tmp_path / 'whole', 4, hook())
    run(tmp_path / 'part', stop, hook())
    resumed, _, _ = run(
        tmp_path / 'rest',
        4,
        hook(),
        resume=True,
        load_from=str(tmp_path / f'part/epoch_{stop}.pth'),
    )
    assert same(state_of(whole.model), state_of(resumed.model))


def test_two_hooks_share_an_optimiser(tmp_path):
    hooks = [StagedFreezeHook(['backbone'], 0, 2), StagedFreezeHook(['head'], 1, 3)]
    model = ToyModel()
    model.free = nn.Parameter(torch.zeros(1))  # something to train while both are frozen
    forward = model.forward

    def with_free(inputs, data_samples=None, mode='tensor'):
        losses = forward(inputs, data_samples, mode)
        return dict(losses, loss_free=(model.free - 1).square().sum())

    model.forward = with_free
    _, watch, _ = run(tmp_path, 4, *hooks, model=model)
    assert watch.held == [3, 1, 5, 7]


def test_forward_keeps_no_activations_unless_parts_before_are_trained():
    part = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    freeze(part)
    x = torch.rand(4, 2)
    assert part(x).grad_fn is None  # though its weights still have gradients
    x.requires_grad_()
    part(x).sum().backward()
    assert x.grad is not None
    copied = copy.deepcopy(part)
    with torch.no_grad():
        copied[0].weight.zero_()
        copied[0].bias.zero_()
    assert copied(x).std(0).max() == 0 and part(x).std(0).max() > 0  # a copy runs itself
    part.eval().train()
    assert part.training and not part[1].training
    thaw(part)
    assert type(part) is nn.Sequential and part[1].training
    assert part(torch.rand(4, 2)).grad_fn is not None


def test_groups_keep_their_number_and_order():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [dict(params=first.parameters()), dict(params=second.parameters())]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    (first(torch.rand(1, 2)) + second(torch.rand(1, 2))).sum().backward()
    optimizer.step()
    first.requires_grad_(False)
    hold_trainable_parameters(optimizer)
    assert [len(group['params']) for group in optimizer.param_groups] == [0, 2]
    assert set(optimizer.state) == set(second.parameters())
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    first.requires_grad_(True)
    hold_trainable_parameters(optimizer)
    assert optimizer.param_groups[0]['params'] == list(first.parameters())


class Noise(Dataset):
    metainfo = dict(classes=tuple('0123456789'))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = torch.full((3, 64, 64), index, dtype=torch.uint8)
        return dict(inputs=image, data_samples=data_samples([1], (64, 64), 10)[0])


def test_a_detector_of_mmdet(tmp_path):
    """Its ResNet has a frozen stem and norms in evaluation mode of its own: they stay so."""
    model = MODELS.build(
        dict(
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor'),
            backbone=dict(type='ResNet', depth=18, frozen_stages=1, norm_eval=True),
            neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
            bbox_head=dict(
                type='RetinaHead', num_classes=10, in_channels=8, feat_channels=8, stacked_convs=1
            ),
            train_cfg=dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
            ),
        )
    )
    seen = []

    class Note(Hook):
        def after_train_epoch(self, runner):
            wanted = {n for n, p in runner.model.backbone.named_parameters() if p.requires_grad}
            seen.append((wanted, state_of(runner.model.backbone), state_of(runner.model.neck)))

    runner = make_runner(
        tmp_path,
        3,
        model=model,
        custom_hooks=[StagedFreezeHook(['backbone', 'neck'], 1, 2), Note()],
    )
    runner._train_dataloader['dataset'] = Noise()
    runner.train()
    trained = seen[0][0]
    assert [bool(wanted) for wanted, _, _ in seen] == [True, False, True]
    assert trained == seen[2][0]
    assert not any(name.startswith(('conv1', 'layer1')) for name in trained)
    for part in (1, 2):
        first, second, third = (entry[part] for entry in seen)
        assert same(first, second) and not same(second, third)
    stem = {key: value for key, value in seen[0][1].items() if key.startswith('layer1')}
    assert same(stem, seen[2][1])


def logged(monkeypatch, runner):
    said = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(runner.logger, level, lambda text, level=level: said.append(text))
    runner.train()
    return said


def test_says_what_is_trainable_and_warns_of_random_features_once(tmp_path, monkeypatch):
    hooks = [StagedFreezeHook(['backbone'], 0, 1)]
    said = logged(monkeypatch, make_runner(tmp_path / 'a', 2, custom_hooks=hooks))
    assert [text for text in said if text.startswith('backbone')] == [
        'backbone: frozen from epoch 0 on; 4 of 19 parameters are trainable',
        'backbone: trained from epoch 1 on; 19 of 19 parameters are trainable',
    ]
    assert sum('random weights: nothing was loaded' in text for text in said) == 1

    hooks = [StagedFreezeHook(['backbone'])]
    loaded = make_runner(
        tmp_path / 'b', 1, custom_hooks=hooks, load_from=str(tmp_path / 'a/epoch_2.pth')
    )
    assert not any('random weights' in text for text in logged(monkeypatch, loaded))


def test_unknown_part_lists_those_there_are(tmp_path):
    with pytest.raises(
        ValueError,
        match="no part 'bakcbone'. The parts of ToyModel are data_preprocessor, backbone,",
    ):
        run(tmp_path, 1, StagedFreezeHook(['bakcbone'], begin=5))
    with pytest.raises(ValueError, match='The parts of backbone are 0, 1'):
        find_part(ToyModel(), 'backbone.stem')


@pytest.mark.parametrize(
    ('wrong', 'match'),
    [
        (dict(parts=[]), 'list of names'),
        (dict(parts='backbone'), 'list of names'),
        (dict(parts=['a'], begin=-1), 'at least 0'),
        (dict(parts=['a'], begin=2, end=2), 'end after it'),
    ],
)
def test_refuses(wrong, match):
    with pytest.raises(ValueError, match=match):
        StagedFreezeHook(**wrong)
