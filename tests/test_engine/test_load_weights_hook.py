# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from deim_mmdet.engine import LoadWeightsHook, WarmupEMAHook

from .toy import ToyData, ToyModel, make_runner

PRIOR = -math.log(99)


class ClassModel(ToyModel):
    def __init__(self, num_classes, value):
        super().__init__()
        self.cls_branch = nn.Linear(1, num_classes)
        with torch.no_grad():
            self.cls_branch.bias.copy_(torch.arange(num_classes) + float(value))


class Look(Hook):
    """Notes the biases of the model and of its average when training starts."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.model = runner.model.cls_branch.bias.detach().clone()
        self.average = next(
            hook.ema_model.module.cls_branch.bias.detach().clone()
            for hook in runner.hooks
            if isinstance(hook, WarmupEMAHook)
        )
        self.head = runner.model.head.weight.detach().clone()


def run(tmp_path, monkeypatch, classes, load_from, resume=False, **hook):
    monkeypatch.setattr(ToyData, 'metainfo', dict(classes=classes))
    runner = make_runner(
        tmp_path / 'new',
        max_epochs=1,
        model=ClassModel(len(classes), 50),
        load_from=str(load_from),
        resume=resume,
        # in the order that would go wrong: the average copies what is loaded
        default_hooks=dict(
            ema=dict(type='WarmupEMAHook'), load_weights=dict(type='LoadWeightsHook', **hook)
        ),
    )
    look = Look()
    runner.register_hook(look)
    said = []
    monkeypatch.setattr(runner.logger, 'log', lambda level, text: said.append((level, text)))
    runner.train()
    return look, [entry for entry in said if str(entry[1]).startswith('class rows')]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint of classes a, b, c with averaged biases 1, 2, 3 and trained ones 11, 12, 13."""
    monkeypatch.setattr(ToyData, 'metainfo', dict(classes=('a', 'b', 'c')))
    runner = make_runner(
        tmp_path / 'old',
        1,
        model=ClassModel(3, 0),
        default_hooks=dict(ema=dict(type='WarmupEMAHook')),
    )
    runner.train()
    path = tmp_path / 'old/epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['state_dict']['cls_branch.bias'] = torch.tensor([1.0, 2.0, 3.0])
    checkpoint['ema_state_dict']['module.cls_branch.bias'] = torch.tensor([11.0, 12.0, 13.0])
    torch.save(checkpoint, path)
    return path


def test_model_and_average_begin_with_the_rows_of_their_classes(tmp_path, monkeypatch, trained):
    look, said = run(tmp_path, monkeypatch, ('C', 'new', 'a'), trained)
    expected = torch.tensor([3.0, PRIOR, 1.0])
    torch.testing.assert_close(look.model, expected)
    torch.testing.assert_close(look.average, expected)
    assert said == [(20, 'class rows: 2 of 3 from the checkpoint (C <- c, a <- a), new: new')]
    loaded = torch.load(trained, weights_only=False)['state_dict']
    assert torch.equal(look.head, loaded['head.weight'])


def test_another_number_of_classes(tmp_path, monkeypatch, trained):
    look, said = run(tmp_path, monkeypatch, ('van', 'b'), trained, aliases=dict(van='c'))
    assert look.model.tolist() == look.average.tolist() == [3, 2]
    assert said == [(20, 'class rows: 2 of 2 from the checkpoint (van <- c, b <- b)')]


def test_nothing_in_common_is_a_warning(tmp_path, monkeypatch, trained):
    look, said = run(tmp_path, monkeypatch, ('x', 'y', 'z'), trained)
    torch.testing.assert_close(look.model, torch.full((3,), PRIOR))
    ((level, text),) = said
    assert level == 30 and '(x, y, z) is among the 3 of the checkpoint (a, b, c)' in text


def test_a_list_that_names_a_class_twice_is_refused(tmp_path, monkeypatch, trained):
    with pytest.raises(ValueError, match='data set names x more than once'):
        run(tmp_path, monkeypatch, ('x', 'x'), trained)


def test_a_resumed_run_keeps_its_rows(tmp_path, monkeypatch, trained):
    look, said = run(tmp_path, monkeypatch, ('c', 'b', 'a'), trained, resume=True)
    assert look.average.tolist() == [1, 2, 3] and look.model.tolist() == [11, 12, 13]
    assert said == []


def test_a_test_fits_the_rows_as_well(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(ToyData, 'metainfo', dict(classes=('b', 'a')))
    runner = make_runner(tmp_path / 'new', 1, [0.5], ClassModel(2, 50), load_from=str(trained))
    runner.register_hook(LoadWeightsHook())
    monkeypatch.setattr(type(runner), 'epoch', 1)
    runner.val()
    assert runner.model.cls_branch.bias.tolist() == [2, 1]
