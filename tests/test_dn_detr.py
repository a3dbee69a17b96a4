# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""``configs/dn_detr`` and the plug-in at work: DEIM on DN-DETR, the page, twenty steps."""

import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.models.losses import MatchabilityAwareLoss
from tests.test_any_detr import Losses, changes
from tests.test_models.small_dn_detr import CONFIG_OF, small_model

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'dn_detr'


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Settings of a data set of four scenes of 128 x 128 pixels."""
    folder = tmp_path_factory.mktemp('digits')
    options = dict(num_train=4, num_val=1, image_hw=(128, 128), digit_size=(20, 72))
    make_digits(folder, DigitsOptions(**options), progress=False)
    return dict(data_root=str(folder), options=options)


def test_deim_changes_loss_and_data_alone():
    base, deim = (
        Config.fromfile(FOLDER / f'{name}_r50_8xb2-50e_coco.py').to_dict()
        for name in ('dn-detr', 'deim_dn-detr')
    )
    found = changes(base, deim)
    del found['dense_o2o_pipeline'], found['train_dataloader.dataset']
    mosaic, classic, plain = found.pop('default_hooks.dense_o2o')['stages']
    assert (mosaic, classic, plain) == (4, 4 + 50 // 2, 48)
    assert found == {
        'model.bbox_head.loss_cls': dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
        'model.data_preprocessor.batch_augments': [dict(type='BatchMixUp', prob=0.5)],
    }


class Notes(Hook):
    """Notes of every step: stage, whether the batch holds a mosaic, objects, losses."""

    def __init__(self):
        self.steps = []

    def before_train(self, runner):
        self.mixup = runner.model.data_preprocessor.batch_augments[0]
        forward = runner.model.loss

        def note(inputs, samples):
            self.num_objects = sum(len(sample.gt_instances) for sample in samples)
            return forward(inputs, samples)

        runner.model.loss = note

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        stage = runner.train_dataloader.dataset.pipeline[0].stage.name
        losses = {name: value.item() for name, value in outputs.items()}
        self.steps.append((stage, self.mixup.enabled, self.num_objects, losses))


def test_deim_on_dn_detr_trains(digits, tmp_path):
    """Dense O2O, MixUp and the matchability-aware loss, in the normal and the denoising part."""
    cfg = Config.fromfile(FOLDER / 'deim_dn-detr_r50_8xb2-50e_coco.py')
    model = small_model('DNDETR')
    model.bbox_head.loss_cls = cfg.model.bbox_head.loss_cls
    model.data_preprocessor.batch_augments = [dict(type='BatchMixUp', prob=1.0)]
    data = cfg.train_dataloader
    data.update(num_workers=0, persistent_workers=False)
    data.dataset.dataset = dict(
        type='DigitsInScenes', pipeline=data.dataset.dataset.pipeline, **digits
    )
    dense_o2o, _, resize, *_ = data.dataset.pipeline
    dense_o2o.mosaic_prob, dense_o2o.mosaic[0].short_side = 1.0, 64
    resize.scales = [(96, 160), (128, 200)]
    notes = Notes()
    cfg.default_hooks.dense_o2o.stages = (1, 2, 3)
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=4),  # of two steps
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(dense_o2o=cfg.default_hooks.dense_o2o, checkpoint=None),
        custom_hooks=[notes],
        default_scope='mmdet',
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name='deim_on_dn_detr',
    )
    runner.train()
    assert isinstance(runner.model.bbox_head.loss_cls, MatchabilityAwareLoss)
    stages = ['PLAIN_START'] * 2 + ['MOSAIC'] * 2 + ['CLASSIC'] * 2 + ['PLAIN_END'] * 2
    assert [(stage, mixup) for stage, mixup, *_ in notes.steps] == [
        (stage, stage == 'MOSAIC') for stage in stages
    ]
    objects = [num_objects for _, _, num_objects, _ in notes.steps]
    assert sum(objects[2:4]) > 3 * sum(objects[:2])
    for *_, losses in notes.steps:
        assert losses.keys() == notes.steps[0][-1].keys() and 'd0.dn_loss_cls' in losses
        assert all(value > 0 for value in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize('kind', CONFIG_OF)
def test_loss_falls_on_digits(kind, digits, tmp_path):
    """Twenty steps on the same four scenes."""
    cfg = Config.fromfile(ROOT / 'configs/any_detr/_base_/digits.py')
    data = cfg.train_dataloader
    data.update(num_workers=0, persistent_workers=False)
    data.dataset.dataset.update(digits)
    for transform in data.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (128, 128)
    losses = Losses()
    runner = Runner(
        model=small_model(kind),
        work_dir=str(tmp_path),
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=20),  # of one step
        optim_wrapper=cfg.optim_wrapper,
        default_hooks=dict(
            dense_o2o=dict(type='DenseO2OHook', stages=(20, 20, 20)), checkpoint=None
        ),
        custom_hooks=[losses],
        default_scope='mmdet',
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'dn_detr_{kind}',
    )
    runner.train()
    first, last = (torch.tensor(losses.total[part]) for part in (slice(5), slice(-5, None)))
    print(f'{kind}: {first.mean():.2f} -> {last.mean():.2f}')
    assert len(losses.total) == 20 and torch.tensor(losses.total).isfinite().all()
    assert last.mean() < first.mean()


def test_the_plug_in_as_the_page_shows_it(tmp_path):
    """The code block of docs/dn_detr.md as a config, for each line of its table."""
    page = (ROOT / 'docs/dn_detr.md').read_text()
    code = re.search(r'## Plug it in.*?```python\n(.*?)```', page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    rows = re.findall(r'\| `(\S+\.py)` \| `(\w+)` \| `(\w+)` \|', page)
    assert len(rows) == 3
    base, kind, head = rows[0]
    for other_base, other_kind, other_head in rows:
        text = code.replace(head, other_head).replace(f"'{kind}'", f"'{other_kind}'")
        path = tmp_path / 'mine.py'
        path.write_text(
            text.replace(f'../any_detr/{base}', f'{ROOT}/configs/any_detr/{other_base}')
        )
        cfg = Config.fromfile(path)
        without = Config.fromfile(ROOT / 'configs/any_detr' / other_base)
        assert changes(without.to_dict(), cfg.to_dict()).keys() == {'model'}
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        assert type(model).__name__ == other_kind and type(model.bbox_head).__name__ == other_head
        assert model.denoising.num_groups == 5
