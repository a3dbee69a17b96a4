# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Every config: loads, agrees with itself, has its row, builds, and trains a step."""

from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config

from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


def metafile_rows() -> dict:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    metafiles = [yaml.safe_load((ROOT / path).read_text()) for path in index['Import']]
    return {row['Config']: row for metafile in metafiles for row in metafile['Models']}


def test_every_config_has_a_row_and_every_row_a_config():
    assert sorted(metafile_rows()) == CONFIGS


@pytest.mark.parametrize('path', CONFIGS)
def test_config_agrees_with_itself(path):
    """Loop, schedule, stages and second stage state the same epochs."""
    cfg = Config.fromfile(ROOT / path)
    assert cfg.custom_imports.imports == ['deim_mmdet']
    assert cfg.default_scope == 'mmdet'
    hooks = {hook.type: hook for hook in cfg.custom_hooks}
    max_epochs = cfg.train_cfg.max_epochs
    schedule = cfg.param_scheduler
    _, mosaic_end, plain_end = hooks['DenseO2OHook'].stages
    assert plain_end == hooks['TwoStageEndHook'].begin == max_epochs - schedule.no_aug
    assert mosaic_end == schedule.flat_until
    assert hooks['TwoStageEndHook'].restart_decay == hooks['WarmupEMAHook'].decay
    assert Path(path).stem == metafile_rows()[path]['Name']
    assert metafile_rows()[path]['Metadata']['Epochs'] == max_epochs
    # an error about a batch then names all the images of a mosaic
    assert 'mix_img_paths' in cfg.train_dataloader.dataset.pipeline[-1].meta_keys


@pytest.mark.parametrize('path', CONFIGS)
def test_model_builds_and_trains_a_step(path):
    cfg = Config.fromfile(ROOT / path)
    model = MODELS.build(cfg.model)
    parameters = metafile_rows()[path]['Metadata'].get('Parameters')
    if parameters:
        assert sum(p.numel() for p in model.parameters()) == parameters

    classes = cfg.model.bbox_head.num_classes
    images = torch.rand(2, 3, 128, 96)
    samples = data_samples((0, 3), (128, 96), classes)  # an image without objects
    losses = model.train().loss(images, samples)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    with torch.no_grad():
        results = model.eval().predict(images, samples)
    assert len(results[0].pred_instances) <= cfg.model.test_cfg.max_per_img
