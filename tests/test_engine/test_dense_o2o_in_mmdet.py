# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Dense O2O with detectors that are mmdet's own, from mmdet's own configs."""

import json
import os.path as osp

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

CONFIGS = osp.join(osp.dirname(mmdet.__file__), '.mim', 'configs')


@pytest.fixture
def data_root(tmp_path):
    """Sixteen pictures of 80 x 64 pixels with two objects each, every fourth without."""
    images, annotations = [], []
    rng = np.random.RandomState(0)
    for index in range(16):
        img = rng.randint(0, 255, (64, 80, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{index}.jpg'), img)
        images.append(dict(id=index, file_name=f'{index}.jpg', width=80, height=64))
        for x in (5, 45) if index % 4 else ():
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=index,
                    category_id=1,
                    bbox=[x, 10, 30, 40],
                    area=1200,
                    iscrowd=0,
                )
            )
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='box')])
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    return str(tmp_path)


def shrink_dino(model):
    model.num_queries = 10
    model.encoder.num_layers = model.decoder.num_layers = 1
    model.bbox_head.num_classes = 1
    model.dn_cfg.group_cfg.num_dn_queries = 4


def shrink_retinanet(model):
    model.bbox_head.num_classes = 1
    model.bbox_head.stacked_convs = 1


class Batches(Hook):
    """Notes what reaches the model."""

    def __init__(self):
        self.seen = {}

    def before_train(self, runner):
        def note(module, args, kwargs):
            samples = kwargs['data_samples']
            shapes = {sample.batch_input_shape for sample in samples}
            assert shapes == {tuple(kwargs['inputs'].shape[-2:])}
            for sample in samples:
                boxes = sample.gt_instances.bboxes
                height, width = sample.img_shape
                limit = torch.tensor([width, height, width, height]) + 1e-3
                assert (boxes >= 0).all() and (boxes <= limit).all()
            count = sum(len(sample.gt_instances) for sample in samples)
            self.seen.setdefault(runner.epoch, []).append((count, *shapes))

        self.handle = runner.model.register_forward_pre_hook(note, with_kwargs=True)

    def after_train(self, runner):
        self.handle.remove()


@pytest.mark.parametrize(
    'config, shrink',
    [
        ('dino/dino-4scale_r50_8xb2-12e_coco.py', shrink_dino),
        ('retinanet/retinanet_r18_fpn_1x_coco.py', shrink_retinanet),
    ],
)
def test_trains_through_all_stages(tmp_path, data_root, config, shrink):
    torch.manual_seed(0)
    cfg = Config.fromfile(osp.join(CONFIGS, config))
    shrink(cfg.model)
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512][-len(cfg.model.neck.in_channels) :]
    cfg.model.data_preprocessor.batch_augments = [
        dict(type='BatchMixUp', prob=1.0),
        dict(type='BatchRandomSize', repeat=1),
    ]
    dataset = dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='coco.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('box',)),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)],
    )
    pipeline = [
        dict(
            type='DenseO2O',
            mosaic_prob=1.0,
            mosaic=[dict(type='DenseMosaic', short_side=32), dict(type='PhotometricDistort')],
        ),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
        dict(type='RandomFlip', prob=0.5),
        dict(type='Resize', scale=(128, 96), keep_ratio=False),
        dict(type='PackDetInputs'),
    ]
    batches = Batches()
    runner = Runner(
        model=cfg.model,
        work_dir=str(tmp_path / 'work'),
        train_dataloader=dict(
            batch_size=8,
            num_workers=1,
            persistent_workers=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='MixedImageDataset', dataset=dataset, pipeline=pipeline),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
        custom_hooks=[
            dict(type='DenseO2OHook', stages=(1, 2, 3)),
            dict(type='NonFiniteLossHook'),
            batches,
        ],
        default_hooks=dict(checkpoint=None),
        default_scope='mmdet',
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'in_mmdet_{shrink.__name__}',
    )
    runner.train()

    objects = {epoch: sum(count for count, _ in seen) for epoch, seen in batches.seen.items()}
    assert objects[0] == objects[3] == 24  # 12 images with two, no augmentation
    assert objects[1] > 2.5 * 24  # mosaics, every image mixed with another one
    assert 12 < objects[2] <= 24  # one image each; a crop may lose objects
    sizes = {size for seen in batches.seen.values() for _, size in seen}
    assert len(sizes) > 1 and {size for _, size in batches.seen[3]} == {(96, 128)}
