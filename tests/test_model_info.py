# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Sizes of the models: as published, as the metafiles state, and counted by hand."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config

from deim_mmdet.model_info import PartInfo, model_info

ROOT = Path(__file__).parents[1]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
ROWS = {
    model['Name']: model
    for path in INDEX
    for model in yaml.safe_load((ROOT / path).read_text())['Models']
    if 'FLOPs' in model['Metadata']
}

# parameters in the train and deploy form, GFLOPs at 640 x 640 of the published implementation
PUBLISHED = {
    'deim_dfine_hgnetv2-n_8xb16-160e_coco': (3_782_693, 3_753_799, 7.165),
    'deim_dfine_hgnetv2-s_8xb4-132e_coco': (10_321_877, 10_237_491, 25.17),
    'deim_dfine_hgnetv2-m_8xb4-102e_coco': (19_590_064, 19_248_189, 56.68),
    'deim_dfine_hgnetv2-l_8xb4-58e_coco': (31_289_848, 30_769_891, 91.14),
    'deim_dfine_hgnetv2-x_8xb4-58e_coco': (62_715_480, 61_695_555, 202.67),
    'deim_rtdetrv2_r18vd_8xb2-120e_coco': (20_183_440, 19_979_152, 60.21),
    'deim_rtdetrv2_r34vd_8xb2-120e_coco': (31_440_644, 31_236_356, 92.26),
    'deim_rtdetrv2_r50vd-m_8xb2-60e_coco': (33_198_864, 32_994_576, 99.53),
    'deim_rtdetrv2_r50vd_8xb2-60e_coco': (42_943_596, 42_144_876, 133.49),
    'deim_rtdetrv2_r101vd_8xb2-60e_coco': (76_660_716, 74_872_812, 251.43),
}
# The published RT-DETRs predict a box for each of 80^2 + 40^2 + 20^2 tokens before they select 300
# of them; ours, as D-FINE, only for those selected. Three layers, 256 -> 256 -> 256 -> 4.
UNSELECTED_BOXES = 2 * (8400 - 300) * (256 * 256 + 256 * 256 + 256 * 4) / 1e9  # 2.1 GFLOPs


@cache
def total_of(name: str) -> PartInfo:
    cfg = Config.fromfile(ROOT / ROWS[name]['Config'])
    return model_info(cfg.model, cfg.image_hw)[-1]


@pytest.mark.parametrize('name', PUBLISHED)
def test_as_published(name):
    params, deploy_params, gflops = PUBLISHED[name]
    total = total_of(name)
    assert (total.params, total.deploy_params) == (params, deploy_params)
    skipped = UNSELECTED_BOXES if 'rtdetr' in name else 0
    assert total.flops / 1e9 + skipped == pytest.approx(gflops, rel=0.003)


@pytest.mark.parametrize('name', ROWS)
def test_metafile_is_up_to_date(name):
    """Otherwise: python tools/model_table.py --measure"""
    stated, total = ROWS[name]['Metadata'], total_of(name)
    assert stated['Parameters'] == total.params
    # releases of PyTorch may split norms and activations into other operators
    assert stated['FLOPs'] == pytest.approx(total.flops, rel=0.003)


@MODELS.register_module()
class CountableDetector(nn.Module):
    """Parts whose size is easily counted by hand; ``reads`` makes it look at values."""

    def __init__(self, reads=False):
        super().__init__()
        self.reads = reads
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.ModuleList([nn.Linear(8, 5)])
        self.decoder = Decoder(self.head[0])
        self.empty = nn.Identity()

    def forward(self, inputs, data_samples, mode):
        if self.reads:
            inputs.sum().item()
        tokens = self.backbone(inputs).flatten(2).transpose(1, 2)
        return self.decoder(tokens), self.head[0](tokens * self.scale)


class Decoder(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.borrowed = [head]  # of another part

    def forward(self, x):
        return self.borrowed[0](self.norm(self.attention(x, x, x, need_weights=False)[0]))


@pytest.mark.parametrize('reads', [False, True])
def test_by_hand(reads):
    cfg = dict(type='CountableDetector', reads=reads)
    parts = model_info(cfg, (4, 6))  # 24 tokens
    # convolution 8 x 3 weights and 8 biases, norm 2 x 8; 2 x 24 x 3 x 8 operations, norm 2 and
    # activation 1 for each of 24 x 8 elements
    backbone = PartInfo('backbone', 32 + 16, 48, 1152 + 3 * 192, 0)
    # 4 projections of 8 x 8 weights and 8 biases, norm 2 x 8; 2 x 24 x 64 operations each, norm 5
    # for each of 24 x 8 elements, the head; products 2 x (2 x 24 x 24 x 8)
    decoder = PartInfo('decoder', 4 * 72 + 16, 304, 4 * 3072 + 5 * 192 + 1920, 18432)
    head = PartInfo('head', 8 * 5 + 5, 45, 2 * 24 * 8 * 5, 0)
    other = PartInfo('other', 1, 1, 0, 0)
    total = PartInfo('total', 398, 398, 1728 + 15168 + 1920, 18432)
    assert parts == [backbone, head, decoder, other, total]


def test_detectors_of_mmdet():
    """One that looks at values and changes its config."""
    cfg = get_config('mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py').model
    before = copy.deepcopy(cfg)
    parts = model_info(cfg, (64, 96))
    assert cfg == before
    params = {part.name: part.params for part in parts}
    assert list(params)[:2] == ['backbone', 'neck']
    assert params['total'] == sum(p.numel() for p in MODELS.build(cfg).parameters())
    assert parts[-1].flops == sum(part.flops for part in parts[:-1]) > 1e9


@pytest.mark.parametrize('hw', [(0, 64), (64, 70)])
def test_sizes_the_model_cannot_take_are_refused(hw):
    cfg = dict(type='CountableDetector', data_preprocessor=dict(pad_size_divisor=32))
    with pytest.raises(ValueError, match='which is 32; got .* Take (32 64|64 96)'):
        model_info(cfg, hw)
