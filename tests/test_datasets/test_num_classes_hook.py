# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

from deim_mmdet.datasets import CheckClassesHook, CheckedCocoMetric

from .conftest import annotation

OBJECTS = [annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], 2, 3)]


class Head(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.linear = torch.nn.Linear(1, 1)


class Toy(BaseModel):
    def __init__(self, num_classes, rpn=False):
        super().__init__()
        self.bbox_head = Head(num_classes)
        if rpn:
            self.rpn_head = Head(1)

    def forward(self, *args, **kwargs):
        pytest.fail('the run has started')


def run(coco, tmp_path, model, metric=CheckedCocoMetric, val=None, val_classes=None, train=True):
    train_ann = coco(OBJECTS)
    val_ann = coco(OBJECTS, 'val.json', **(val or {}))
    folder = os.path.join(os.path.dirname(train_ann), 'images')

    def loader(ann_file, classes=None):
        dataset = dict(type='CheckedCocoDataset', ann_file=ann_file, data_prefix=dict(img=folder))
        if classes:
            dataset['metainfo'] = dict(classes=classes)
        sampler = dict(type='DefaultSampler', shuffle=False)
        return dict(batch_size=1, dataset=dataset, sampler=sampler)

    runner = Runner(
        model=model,
        work_dir=str(tmp_path / 'work'),
        train_dataloader=loader(train_ann),
        val_dataloader=loader(val_ann, val_classes),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg={},
        val_evaluator=[metric(ann_file=val_ann)],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=None),
        default_scope='mmdet',
        experiment_name=tmp_path.name,
        cfg=dict(model=dict(bbox_head=dict(num_classes=model.bbox_head.num_classes))),
    )
    runner.register_hook(CheckClassesHook())
    runner.train() if train else runner.val()


STARTED = pytest.raises(pytest.fail.Exception, match='the run has started')


def test_a_run_that_fits_starts(coco, tmp_path):
    with STARTED:
        run(coco, tmp_path, Toy(2, rpn=True))  # a proposal head has one class of its own


def test_a_validation_alone_starts(coco, tmp_path):
    with STARTED:
        run(coco, tmp_path, Toy(2), train=False)
    with pytest.raises(ValueError, match='num_classes is 80'):
        run(coco, tmp_path, Toy(80), train=False)


def test_another_number_of_classes_is_refused_before_the_first_step(coco, tmp_path):
    with pytest.raises(ValueError, match='--cfg-options model.bbox_head.num_classes=2') as error:
        run(coco, tmp_path, Toy(80))
    assert 'train_dataloader: model.bbox_head.num_classes is 80, but the data' in str(error.value)
    assert "2 classes ('cat', 'dog')" in str(error.value)


def test_validation_with_other_classes_is_refused(coco, tmp_path):
    with pytest.raises(ValueError, match="have different classes: .*'cat', 'dog'.*'dog', 'cat'"):
        run(coco, tmp_path, Toy(2), val_classes=('dog', 'cat'))
    other = dict(categories=[dict(id=3, name='dog'), dict(id=7, name='cat')])
    with pytest.raises(ValueError, match='have different classes'):
        run(coco, tmp_path, Toy(2), val=other)


def test_other_order_of_categories_needs_our_metric(coco, tmp_path):
    other = dict(categories=[dict(id=3, name='dog'), dict(id=7, name='cat')])
    with pytest.raises(ValueError, match='AP would be wrong. Use CheckedCocoMetric'):
        run(coco, tmp_path, Toy(2), metric=CocoMetric, val=other, val_classes=('cat', 'dog'))
    with STARTED:
        run(coco, tmp_path, Toy(2), val=other, val_classes=('cat', 'dog'))
    with STARTED:
        run(coco, tmp_path, Toy(2), metric=CocoMetric)
