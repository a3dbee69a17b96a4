# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The recipe of YOLOv8: learning rates, weight decay, and where the mosaics end."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS, PARAM_SCHEDULERS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.optim import build_optim_wrapper

from deim_mmdet.datasets.transforms import DenseO2OStage
from deim_mmdet.engine.dense_o2o_hook import DenseO2OHook, find_transforms
from deim_mmdet.engine.recipe import set_epochs

ROOT = Path(__file__).parents[1]


def config(name: str) -> Config:
    return Config.fromfile(ROOT / f'configs/yolov8/{name}.py')


@pytest.mark.parametrize(
    'epochs, epoch_length, iteration, expected',
    [
        # (500, 1000): warm-up 3000, then linearly to 1 / 100 at the end
        (500, 1000, 0, 0.01 / 3000),
        (500, 1000, 1500, 0.01 * (1501 / 3000) * (1 - 0.99 * 1500 / 499_999)),
        (500, 1000, 250_000, 0.01 * (1 - 0.99 * 250_000 / 499_999)),
        (500, 1000, 499_999, 0.01 * 0.01),
        # a run of 200 iterations: the warm-up takes a tenth of it
        (2, 100, 9, 0.01 * (10 / 20) * (1 - 0.99 * 9 / 199)),
        (2, 100, 199, 0.01 * 0.01),
    ],
)
def test_learning_rate(epochs, epoch_length, iteration, expected):
    cfg = set_epochs(config('yolov8_n_8xb16-500e_coco'), epochs)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedulers = []
    for part in cfg.param_scheduler:
        part = dict(part)
        part.pop('convert_to_iter_based')
        kind = PARAM_SCHEDULERS.get(part.pop('type'))
        part.setdefault('end', epochs)
        schedulers.append(kind.build_iter_from_epoch(optimizer, **part, epoch_length=epoch_length))
    for _ in range(iteration):
        for scheduler in schedulers:
            scheduler.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-6)


def test_norms_and_biases_do_not_decay():
    cfg = config('yolov8_n_8xb16-500e_coco')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decays = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    for name, parameter in model.named_parameters():
        if name.endswith('.bins'):
            assert id(parameter) not in decays  # nothing to train
        else:
            assert decays[id(parameter)] == (5e-4 if parameter.ndim == 4 else 0)


class Scenes(BaseDataset):
    """Four images of 60 x 40 pixels with one object, loaded already."""

    def __init__(self):
        super().__init__(lazy_init=True)

    def full_init(self):
        pass

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(
            img=np.full((40, 60, 3), 10 * index, np.uint8),
            img_shape=(40, 60),
            ori_shape=(40, 60),
            img_path=f'{index}.jpg',
            img_id=index,
            gt_bboxes=HorizontalBoxes(torch.tensor([[10.0, 10.0, 40.0, 30.0]])),
            gt_bboxes_labels=np.zeros(1, np.int64),
            gt_ignore_flags=np.zeros(1, bool),
        )


@pytest.mark.parametrize('name', ['yolov8_n_8xb16-500e_coco', 'yolov8_n_digits'])
def test_mosaics_end_before_training_does(name):
    cfg = config(name)
    stages = DenseO2OHook(**{k: v for k, v in cfg.default_hooks.dense_o2o.items() if k != 'type'})
    begin, end, plain = stages.stages
    assert (begin, end) == (0, plain)
    assert 0 < cfg.train_cfg.max_epochs - plain == cfg.no_mosaic_epochs

    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    dataset.dataset = Scenes()
    dataset = DATASETS.build(dataset)
    (switch,) = find_transforms(dataset, type(dataset.pipeline[0]))
    np.random.seed(0)
    most = []  # objects of one image
    for stage in (DenseO2OStage.MOSAIC, DenseO2OStage.PLAIN_END):
        switch.stage = stage
        samples = [dataset[i % 4] for i in range(12)]
        most.append(max(len(sample['data_samples'].gt_instances) for sample in samples))
        if 'coco' in name or stage is DenseO2OStage.MOSAIC:
            assert {tuple(sample['inputs'].shape[1:]) for sample in samples} == {cfg.image_hw}
    assert most[0] > most[1] == 1
