# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What freezing saves: what tools/benchmark_memory.py counts is what it measures."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from deim_mmdet.benchmark.from_config import build_detector
from deim_mmdet.benchmark.training_memory import (
    SavedForBackward,
    parts_to_freeze,
    training_memory,
    training_memory_apart,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
FLOAT = 4  # bytes


@pytest.fixture
def cfg():
    return Config.fromfile(CONFIGS / 'deyo/deyo_yolov8-atto_digits.py')


def test_tensors_by_hand():
    """Linear keeps its input, SiLU its own; the output of the part is the input of the rest."""
    part = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 7))
    model = nn.Sequential(part, nn.Linear(7, 1))
    saved = SavedForBackward(model, [part])
    images = torch.rand(2, 3)
    with saved.hooks(images):
        loss = model(images).square().sum()
    saved.count()
    assert saved.in_parts == FLOAT * 2 * (5 + 5)  # before and after SiLU; images exist anyway
    assert saved.elsewhere == FLOAT * 2 * (7 + 1)  # output of the part, what is squared
    loss.backward()
    saved.count()
    assert saved.in_parts == saved.elsewhere == 0


@pytest.mark.timeout(900)  # two programs: PyTorch is imported twice
def test_freezing_saves_what_the_frozen_parts_keep(cfg):
    """Peak of full training = peak of the second stage + what frozen parts keep, within 10 %."""
    held = torch.zeros(2**28)  # what this process holds is no matter: 1 GiB
    options = parts_to_freeze(cfg), (192, 192), 4
    parts, *size = options
    assert parts == ['backbone', 'neck']
    full = training_memory_apart(cfg, parts, False, *size)
    frozen = training_memory_apart(cfg, parts, True, *size)
    del held
    # counted: to the byte
    assert full.saved_in_parts > 25 * 2**20
    assert frozen.saved_in_parts == 0
    assert frozen.saved_elsewhere == full.saved_elsewhere
    # measured, and with nothing large that is not counted: a tenth for what layers work in
    less = full.peak - frozen.peak
    assert less == pytest.approx(full.saved_in_parts, rel=0.1)
    assert frozen.peak == pytest.approx(frozen.saved_elsewhere, rel=0.3)
    # AdamW has two moments of each trained parameter, and a counter
    for figures in (full, frozen):
        assert figures.optimizer == pytest.approx(2 * figures.gradients, rel=1e-3)
    trained = {n: p for n, p in build_detector(cfg).named_parameters() if p.requires_grad}
    decoder = sum(p.numel() for n, p in trained.items() if not n.startswith(tuple(parts)))
    assert frozen.gradients == FLOAT * decoder
    assert full.gradients == FLOAT * sum(p.numel() for p in trained.values())


def test_denoising_queries_keep_more(cfg):
    with_queries = training_memory(cfg, ['backbone', 'neck'], True, (64, 64), 1)
    cfg.model.denoising = None
    without = training_memory(cfg, ['backbone', 'neck'], True, (64, 64), 1)
    assert without.saved_elsewhere < with_queries.saved_elsewhere


def test_parts_come_from_the_hook(cfg):
    hook = cfg.default_hooks.pop('staged_freeze')
    assert parts_to_freeze(cfg) is None
    cfg.custom_hooks = [hook]
    assert parts_to_freeze(cfg) == ['backbone', 'neck']


def test_detectors_without_a_box_head_are_refused(cfg):
    cfg.model = dict(type='FasterRCNN', backbone=cfg.model.backbone)
    with pytest.raises(ValueError, match='bbox_head has num_classes, but that of FasterRCNN'):
        training_memory(cfg, ['backbone'], True)
