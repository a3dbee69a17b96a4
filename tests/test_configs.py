# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Every config: loads, agrees with itself, has its row, builds, trains a step, deploys.

Those of ``configs/any_detr`` hold models of mmdet and are built in ``test_any_detr.py``.
"""

import argparse
import copy
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper

from deim_mmdet.models.detectors import RTDETR, YOLOv8
from deim_mmdet.models.layers.conv import switch_to_deploy
from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if not {'_base_', 'deploy'} & set(path.parts)  # deploy/ is mmdeploy's
)
OURS = [path for path in CONFIGS if not path.startswith('configs/any_detr/')]

# The published training settings: batch, learning rate, of the backbone, weight decay, epochs,
# stages of Dense O2O, copies of the base size in multi-scale training, EMA warm-up and decay in the
# second stage (None: there is no second stage).
# fmt: off
PUBLISHED = {
    'deim_dfine_hgnetv2-n_8xb16-160e_coco':
        (128, 8e-4,   4e-4,    1e-4,    160, (4, 78, 148), None, 1000, .9999),
    'deim_dfine_hgnetv2-s_8xb4-132e_coco':
        (32,  4e-4,   2e-4,    1e-4,    132, (4, 64, 120), 20,   1000, .9999),
    'deim_dfine_hgnetv2-m_8xb4-102e_coco':
        (32,  4e-4,   4e-5,    1e-4,    102, (4, 49, 90),  6,    1000, .9999),
    'deim_dfine_hgnetv2-l_8xb4-58e_coco':
        (32,  5e-4,   2.5e-5,  1.25e-4, 58,  (4, 29, 50),  4,    1000, .9999),
    'deim_dfine_hgnetv2-x_8xb4-58e_coco':
        (32,  5e-4,   5e-6,    1.25e-4, 58,  (4, 29, 50),  3,    1000, .9998),
    'deim_dfine_hgnetv2-x_8xb4-24e_obj365-coco':
        (32,  2.5e-4, 2.5e-6,  1.25e-4, 24,  (2, 12, 20),  3,    0,    .9999),
    'deim_rtdetrv2_r18vd_8xb2-120e_coco':
        (16,  2e-4,   2e-4,    1e-4,    120, (4, 64, 117), 3,    2000, .9999),
    'deim_rtdetrv2_r34vd_8xb2-120e_coco':
        (16,  2e-4,   1e-4,    1e-4,    120, (4, 64, 117), 3,    2000, .9999),
    'deim_rtdetrv2_r50vd-m_8xb2-60e_coco':
        (16,  2e-4,   2e-5,    1e-4,    60,  (4, 34, 58),  3,    2000, .9999),
    'deim_rtdetrv2_r50vd_8xb2-60e_coco':
        (16,  2e-4,   2e-5,    1e-4,    60,  (4, 34, 58),  3,    2000, .9999),
    'deim_rtdetrv2_r101vd_8xb2-60e_coco':
        (16,  2e-4,   2e-6,    1e-4,    60,  (4, 34, 58),  3,    2000, .9999),
    'dfine_hgnetv2-n_8xb16-160e_coco':
        (128, 8e-4,   4e-4,    1e-4,    160, (0, 0, 148),  None, 1000, .9999),
    'dfine_hgnetv2-s_8xb4-132e_coco':
        (32,  2e-4,   1e-4,    1e-4,    132, (0, 0, 120),  20,   1000, .9999),
    'dfine_hgnetv2-m_8xb4-132e_coco':
        (32,  2e-4,   2e-5,    1e-4,    132, (0, 0, 120),  6,    1000, .9999),
    'dfine_hgnetv2-l_8xb4-80e_coco':
        (32,  2.5e-4, 1.25e-5, 1.25e-4, 80,  (0, 0, 72),   4,    1000, .9999),
    'dfine_hgnetv2-x_8xb4-80e_coco':
        (32,  2.5e-4, 2.5e-6,  1.25e-4, 80,  (0, 0, 72),   3,    1000, .9998),
    'rtdetrv2_r18vd_8xb2-120e_coco':
        (16,  1e-4,   1e-4,    1e-4,    120, (0, 0, 117),  3,    2000, None),
    'rtdetrv2_r34vd_8xb2-120e_coco':
        (16,  1e-4,   5e-5,    1e-4,    120, (0, 0, 117),  3,    2000, None),
    'rtdetrv2_r50vd-m_8xb2-84e_coco':
        (16,  1e-4,   1e-5,    1e-4,    84,  (0, 0, 81),   3,    2000, None),
    'rtdetrv2_r50vd_8xb2-72e_coco':
        (16,  1e-4,   1e-5,    1e-4,    72,  (0, 0, 71),   3,    2000, None),
    'rtdetrv2_r101vd_8xb2-72e_coco':
        (16,  1e-4,   1e-6,    1e-4,    72,  (0, 0, 71),   3,    2000, None),
    'rtdetr_r18vd_8xb2-72e_coco':
        (16,  1e-4,   1e-5,    1e-4,    72,  (0, 0, 72),   3,    2000, None),
    'rtdetr_r50vd_8xb2-72e_coco':
        (16,  1e-4,   1e-5,    1e-4,    72,  (0, 0, 72),   3,    2000, None),
    'rtdetr_r101vd_8xb2-72e_coco':
        (16,  1e-4,   1e-6,    1e-4,    72,  (0, 0, 72),   3,    2000, None),
}
# batch, learning rate, of the backbone, weight decay, epochs, epochs before the learning rate drops
PUBLISHED_DN_DETR = {
    'dn-detr_r50_8xb2-50e_coco':             (16, 1e-4, 1e-5, 1e-4, 50, 40),
    'dn-detr_r50_8xb2-12e_coco':             (16, 1e-4, 1e-5, 1e-4, 12, 10),
    'dn-detr_r50-dc5_8xb2-50e_coco':         (16, 1e-4, 1e-5, 1e-4, 50, 40),
    'dn-detr_r50-dc5_8xb2-12e_coco':         (16, 1e-4, 1e-5, 1e-4, 12, 11),
    'dn-detr_r101_8xb2-50e_coco':            (16, 1e-4, 1e-5, 1e-4, 50, 40),
    'dn-deformable-detr_r50_8xb2-50e_coco':  (16, 1e-4, 1e-5, 1e-4, 50, 40),
    'dn-deformable-detr_r50_8xb2-24e_coco':  (16, 1e-4, 1e-5, 1e-4, 24, 20),
    'dn-deformable-detr_r50_8xb2-12e_coco':  (16, 1e-4, 1e-5, 1e-4, 12, 11),
    'deim_dn-detr_r50_8xb2-50e_coco':        (16, 1e-4, 1e-5, 1e-4, 50, 40),
}
# fmt: on
DN_DETR = [path for path in OURS if path.startswith('configs/dn_detr/')]
# configs that differ in the schedule alone: the model of the first is that of the second
SAME_MODEL = {
    f'configs/dn_detr/{first}_coco.py': f'configs/dn_detr/{second}_coco.py'
    for first, second in [
        ('dn-detr_r50_8xb2-12e', 'dn-detr_r50_8xb2-50e'),
        ('dn-deformable-detr_r50_8xb2-24e', 'dn-deformable-detr_r50_8xb2-50e'),
        ('dn-deformable-detr_r50_8xb2-12e', 'dn-deformable-detr_r50_8xb2-50e'),
    ]
}


def metafile_rows() -> dict:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    metafiles = [yaml.safe_load((ROOT / path).read_text()) for path in index['Import']]
    return {row['Config']: row for metafile in metafiles for row in metafile['Models']}


def test_every_config_has_a_row_and_every_row_a_config():
    assert sorted(metafile_rows()) == CONFIGS


@pytest.mark.parametrize('path', CONFIGS)
def test_row_says_what_the_config_says(path):
    cfg = Config.fromfile(ROOT / path)
    row = metafile_rows()[path]
    assert cfg.default_scope == 'mmdet'
    assert Path(path).stem == row['Name']
    assert row['Metadata']['Epochs'] == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('path', OURS)
def test_config_agrees_with_itself(path):
    """Loop, schedule, stages and second stage state the same epochs."""
    cfg = Config.fromfile(ROOT / path)
    assert cfg.custom_imports.imports == ['deim_mmdet']
    hooks, schedule = cfg.default_hooks, cfg.param_scheduler
    max_epochs = cfg.train_cfg.max_epochs
    for part in [schedule] if isinstance(schedule, dict) else schedule:
        assert part.get('end', max_epochs) == max_epochs
        assert all(epoch < max_epochs for epoch in part.get('milestones', ()))
    if 'dense_o2o' in hooks:
        _, mosaic_end, plain_end = hooks.dense_o2o.stages
        assert plain_end <= max_epochs
        # an error about a batch then names all the images of a mosaic
        assert 'mix_img_paths' in cfg.train_dataloader.dataset.pipeline[-1].meta_keys
    else:
        assert path in DN_DETR
    if 'flat_until' in schedule:
        assert plain_end == max_epochs - schedule.no_aug
        assert schedule.flat_until == mosaic_end or schedule.gamma == 1.0
    if 'two_stage_end' in hooks:
        assert hooks.two_stage_end.begin == plain_end
    gpus, batch = 8, cfg.train_dataloader.batch_size
    if path.endswith('_coco.py'):
        assert f'_{gpus}xb{batch}-{max_epochs}e_' in path
        assert cfg.auto_scale_lr.base_batch_size == gpus * batch


def check_published_optimizer(
    name: str, batch: int, lr: float, backbone_lr: float, decay: float, epochs: int
) -> Config:
    """The config of that name, whose settings are these."""
    (path,) = [path for path in OURS if Path(path).stem == name]
    cfg = Config.fromfile(ROOT / path)
    assert 8 * cfg.train_dataloader.batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
    mults = [rule.get('lr_mult', 1) for rule in cfg.optim_wrapper.paramwise_cfg.rules]
    assert lr * min(mults) == pytest.approx(backbone_lr)
    assert cfg.optim_wrapper.optimizer.weight_decay == pytest.approx(decay)
    assert cfg.train_cfg.max_epochs == epochs
    return cfg


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_training_settings(name):
    *optimizer, stages, repeat, warmup, restart = PUBLISHED[name]
    cfg = check_published_optimizer(name, *optimizer)
    assert tuple(cfg.default_hooks.dense_o2o.stages) == stages
    augments = {a.type: a for a in cfg.model.data_preprocessor.get('batch_augments', [])}
    assert augments.get('BatchRandomSize', {}).get('repeat') == repeat
    assert ('BatchMixUp' in augments) == name.startswith('deim')
    assert cfg.default_hooks.ema.warmup == warmup
    assert cfg.default_hooks.get('two_stage_end', {}).get('restart_decay') == restart


@pytest.mark.parametrize('name', PUBLISHED_DN_DETR)
def test_published_training_settings_of_dn_detr(name):
    *optimizer, lr_drop = PUBLISHED_DN_DETR[name]
    cfg = check_published_optimizer(name, *optimizer)
    assert cfg.param_scheduler.milestones == [lr_drop]
    assert cfg.param_scheduler.gamma == 0.1
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.model.denoising == dict(
        type='DenoisingQueryGenerator', num_groups=5, label_noise=0.2, box_noise=0.4
    )
    assert cfg.model.num_queries == 300
    assert 'ema' not in cfg.default_hooks


def test_a_hook_of_the_base_can_be_switched_off(tmp_path):
    child = tmp_path / 'child.py'
    base = ROOT / 'configs/deim/deim_dfine_hgnetv2-n_digits.py'
    child.write_text(
        f"_base_ = '{base}'\n"
        "default_hooks = dict(two_stage_end=dict(_delete_=True, type='NoHook'))\n"
    )
    hooks = Config.fromfile(child).default_hooks
    assert isinstance(HOOKS.build(hooks.two_stage_end), Hook)
    assert hooks.ema.type == 'WarmupEMAHook'


def build(cfg: Config) -> torch.nn.Module:
    """The detector with random weights, and a backbone without those of ImageNet."""
    torch.manual_seed(0)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    if not isinstance(model, (RTDETR, YOLOv8)):
        model.init_weights()  # some of mmdet's parameters are bare memory until then
    return model


@pytest.mark.parametrize('path', SAME_MODEL)
def test_the_same_model(path):
    first, second = (Config.fromfile(ROOT / each) for each in (path, SAME_MODEL[path]))
    assert first.model == second.model and first.train_cfg != second.train_cfg
    parameters = [metafile_rows()[p]['Metadata']['Parameters'] for p in (path, SAME_MODEL[path])]
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize('path', [path for path in OURS if path not in SAME_MODEL])
def test_model_trains_a_step_and_deploys(path):
    cfg = Config.fromfile(ROOT / path)
    model = build(cfg)
    parameters = metafile_rows()[path]['Metadata']['Parameters']
    assert sum(p.numel() for p in model.parameters()) == parameters

    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    trained = {id(p) for group in optim_wrapper.optimizer.param_groups for p in group['params']}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}

    images = torch.rand(2, 3, 128, 96)
    samples = data_samples((0, 3), (128, 96), cfg.model.bbox_head.num_classes)
    losses = model.train().loss(images, samples)  # an image without objects
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero would hide differences
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
        results = model.eval().predict(images, samples)
        assert len(results[0].pred_instances) <= cfg.model.test_cfg.max_per_img
        if not isinstance(model, (RTDETR, YOLOv8)):
            return  # mmdet's layers have one form
        bboxes = boxes_of_tokens(model, images)
        deployed = boxes_of_tokens(switch_to_deploy(copy.deepcopy(model)), images)
    torch.testing.assert_close(deployed, bboxes, rtol=0, atol=1e-4)


# without denoising -> mmdet's detector; the other has none there, and is a detector of its own
BASES = {
    'configs/dn_detr/dn-detr_r50_8xb2-50e_coco.py': 'DABDETR',
    'configs/dn_detr/dn-deformable-detr_r50_8xb2-50e_coco.py': None,
}


@pytest.mark.parametrize('path', BASES)
def test_the_baseline_is_one_line_away(path):
    """``--cfg-options model.denoising=None``: no denoising, and nothing else is different."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', 'model.denoising=None']).cfg_options
    cfg = Config.fromfile(ROOT / path)
    cfg.model.encoder.num_layers, cfg.model.decoder.num_layers = 1, 2
    with_denoising = build(copy.deepcopy(cfg))
    cfg.merge_from_dict(options)
    without = build(copy.deepcopy(cfg))
    more = with_denoising.state_dict().keys() - without.state_dict().keys()
    assert more == {'denoising.label_embedding.weight'}

    images = torch.rand(2, 3, 96, 64)
    samples = data_samples((0, 3), (96, 64))
    losses = without.train().loss(images, samples)
    assert not any('dn_' in name for name in losses)
    weights = without.state_dict()
    if BASES[path]:
        del cfg.model.denoising
        cfg.model.type, cfg.model.bbox_head.type = BASES[path], f'{BASES[path]}Head'
        base = build(cfg)
        base.load_state_dict(weights)
        assert base.train().loss(images, samples) == losses
    # the queries of training are gone in evaluation: content "no object" as without, all is equal
    weights['denoising.label_embedding.weight'] = torch.randn(81, 255)
    weights['denoising.label_embedding.weight'][80] = 0
    with_denoising.load_state_dict(weights)
    with torch.no_grad():
        outputs = [
            model.eval()(images, samples, mode='tensor') for model in (without, with_denoising)
        ]
    for first, second in zip(*outputs):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def boxes_of_tokens(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Final boxes in the order of the tokens they start from, (bs, tokens, 4), as shares of 128
    pixels where they are in pixels.

    The queries are those tokens sorted by score: rounding may exchange neighbours.
    """
    if isinstance(model, YOLOv8):  # every token predicts one box, once
        return model.bbox_head.box_branch.decode(model(images, mode='tensor')[1]) / 128
    model.query_selection.num_queries = 10**6
    memory, spatial_shapes, selected = model.propose(images)
    bboxes = model.decode(memory, spatial_shapes, selected).bboxes[-1]
    return torch.empty_like(bboxes).scatter_(
        1, selected.index.unsqueeze(-1).expand_as(bboxes), bboxes
    )
