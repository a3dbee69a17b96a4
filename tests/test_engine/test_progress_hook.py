# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import logging
import sys

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner

from deim_mmdet.engine import RichProgressHook
from deim_mmdet.engine.progress_hook import describe_losses, format_seconds


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        loss = self.linear(torch.ones(1, 1)).sum() * 0
        if mode == 'loss':
            return {'loss_cls': loss + 1, 'd0.loss_cls': loss + 2, 'dn_loss_iou': loss + 0.5}
        return [0]


class Constant(BaseMetric):
    default_prefix = 'coco'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'bbox_mAP': 0.25, 'bbox_mAP_50': 0.5, 'bbox_mAP_s': 0.125}


def train(tmp_path, hook):
    data = dict(
        batch_size=1, dataset=[dict(inputs=torch.zeros(1))] * 3, sampler=dict(type='DefaultSampler')
    )
    data['collate_fn'] = dict(type='default_collate')
    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=data,
        val_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg={},
        val_evaluator=[Constant()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=None),
        experiment_name=tmp_path.name,
    )
    runner.register_hook(hook)
    runner.train()
    return runner


def console(runner):
    return [h for h in runner.logger.handlers if type(h) is logging.StreamHandler]


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    runner = train(tmp_path, RichProgressHook(every=0))
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith(('epoch', 'evaluated'))]
    assert len(shown) == 2 * 3 + 2
    assert shown[0].startswith('epoch 1/2  step 1/3  ')
    assert shown[0].endswith('left  loss 3.50  lr 0.01  (cls 3.00, iou 0.50)')
    assert shown[3] == 'evaluated after epoch 1: AP 0.250  AP50 0.500'
    assert '0:00 left' in shown[6]
    # The log file has what the console was spared; the console has its level back.
    assert not any('Epoch(train)' in line for line in lines)
    assert 'Epoch(val) [2]' in (tmp_path / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert [handler.level for handler in console(runner)] == [logging.INFO]


def test_few_lines_unless_time_passes(tmp_path, capsys):
    train(tmp_path, RichProgressHook(every=1e9))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith('epoch')]
    assert len(shown) == 1 and 'epoch 2/2  step 3/3' in shown[0]  # the last one always


def test_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setenv('COLUMNS', '160')
    monkeypatch.setenv('TERM', 'xterm')
    before = sys.stdout
    hook = RichProgressHook(quiet=False)
    runner = train(tmp_path, hook)
    shown = capsys.readouterr().out
    assert 'evaluating' in shown and 'loss 3.50' in shown and '100 %' in shown
    assert 'evaluated after epoch 2: AP 0.250' in shown
    assert 'Epoch(val)' in shown  # logs go through the bar when they are not silenced
    assert sys.stdout is before and hook._bar is None
    assert all(handler.stream is not None for handler in console(runner))


def test_terms_are_summed_over_layers():
    def history(*values):
        buffer = HistoryBuffer()
        for value in values:
            buffer.update(value)
        return buffer

    scalars = {
        'train/loss': history(9.0, 7.0),  # mean 8
        'train/loss_bbox': history(1.0, 3.0),  # 2
        'train/d1.loss_bbox': history(4.0),
        'train/d0.dn_loss_bbox': history(1.0),
        'train/loss_ddf': history(-0.0),
        'train/lr': history(0.1),
        'val/loss_bbox': history(50.0),
    }
    assert describe_losses(scalars) == ('loss 8.00', '(bbox 7.00, ddf 0.00)')
    assert describe_losses({}) == ('loss 0.00', '')


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0:00'), (59.6, '1:00'), (65, '1:05'), (3725, '1:02:05')]
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
