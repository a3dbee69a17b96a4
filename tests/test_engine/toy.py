# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A model and data small enough to train with a real Runner in a test."""

import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

ITERS_PER_EPOCH = 3


class ToyModel(BaseModel):
    """Fits y = sum of x; the validation prediction is the mean of its first weights."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)
        # what a detector may cache: no part of the state, and of a changing shape
        self.register_buffer('cache', torch.zeros(0), persistent=False)
        self.poison = None  # (iteration, value): the term loss_b becomes it
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if isinstance(inputs, list):
            inputs = torch.stack(inputs)
        out = self.head(self.backbone(inputs))
        if mode == 'loss':
            self.cache = torch.zeros(len(inputs) + self.calls)
            error = out[:, 0] - inputs.sum(dim=1)
            loss_b = error.abs().mean()
            if self.poison is not None and self.calls == self.poison[0]:
                loss_b = loss_b * self.poison[1]
            self.calls += 1
            return dict(loss_a=error.square().mean(), loss_b=loss_b, acc=torch.tensor(float('nan')))
        return [DetDataSample() for _ in inputs]


class ToyData(Dataset):
    metainfo = dict(classes=('a',))

    def __init__(self, pipeline=()):
        generator = torch.Generator().manual_seed(1)
        self.data = torch.randn(ITERS_PER_EPOCH * 4, 2, generator=generator)
        self.pipeline = list(pipeline)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        sample = DetDataSample(metainfo=dict(img_path=f'{index}.jpg'))
        return dict(inputs=self.data[index], data_samples=sample)


class ScoreMetric(BaseMetric):
    """Gives the scores of a list, one per evaluation: of the epoch that was just trained."""

    default_prefix = 'coco'

    def __init__(self, scores):
        super().__init__()
        self.scores = scores
        self.runner = None

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(bbox_mAP=self.scores[self.runner.epoch - 1])


def make_runner(work_dir, max_epochs, scores=None, model=None, pipeline=(), **cfg):
    """A Runner of the toy model; ``scores`` (one per epoch) switch evaluation on."""
    torch.manual_seed(0)
    cfg.setdefault('optim_wrapper', dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1)))
    cfg.setdefault('default_hooks', {}).setdefault(
        'checkpoint', dict(type='CheckpointHook', interval=1)
    )
    loader = dict(
        dataset=ToyData(pipeline),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    if scores is not None:
        metric = ScoreMetric(scores)
        cfg.update(
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=Evaluator(metric),
            val_cfg={},
        )
    runner = Runner(
        model=model or ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        default_scope='mmdet',
        experiment_name=f'toy_{len(str(work_dir))}_{id(loader)}',
        randomness=dict(seed=0),
        log_level='WARNING',
        **cfg,
    )
    if scores is not None:
        metric.runner = runner
    return runner
