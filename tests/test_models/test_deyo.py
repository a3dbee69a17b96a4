# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEYO: against the published implementation, and what holds whatever the weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.convert import revert_state_dict
from deim_mmdet.models.losses.full_gradient_varifocal_loss import full_gradient_varifocal_loss
from deim_mmdet.models.losses.iou_varifocal_loss import iou_varifocal_loss
from deim_mmdet.models.task_modules import BatchTargets
from tests.fixtures import fill
from tests.test_models.parity import ROOT, Case, gradient_norm
from tests.test_models.samples import data_samples

N = 'deyo/deyo_yolov8-n_8xb2-96e_coco'
# config: parameters as published, class branch of YOLOv8 included
SIZES = {
    'deyo-tiny_yolov8-n': 4_349_784,
    'deyo_yolov8-n': 5_951_704,
    'deyo_yolov8-s': 14_018_408,
    'deyo_yolov8-m': 33_334_584,
    'deyo_yolov8-l': 51_156_232,
    'deyo_yolov8-x': 78_705_304,
}


@pytest.fixture(scope='module')
def case():
    return Case('deyo_n', case=('deyo_n', N))


@pytest.fixture
def small():
    """The model of the digits, with weights that move every output."""
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / 'configs/deyo/deyo_yolov8-atto_digits.py').model
    model = MODELS.build(cfg)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


def class_branch_size(channels, num_classes=80):
    """Parameters of YOLOv8's class branch: two 3x3 convolutions with norms and a 1x1 per level."""
    width = max(channels[0], min(num_classes, 100))
    per_level = 2 * 2 * width + 9 * width**2 + (width + 1) * num_classes
    return sum(9 * c * width + per_level for c in channels)


# -- against the published implementation


def test_every_key_is_converted(case):
    assert np.isclose(fill.weight_sum(case.weights), case.golden['weight_sum'], rtol=1e-6)
    assert case.report.fits
    assert set(case.report.mapped) | set(case.report.dropped) == set(case.weights)
    assert {key for key in case.weights if '.cv3.' in key} == set(case.report.dropped)
    assert 'class branch of YOLOv8, which DEYO does not use: model.22.cv3' in str(case.report)
    dropped = sum(np.size(case.weights[key]) for key in case.report.dropped if 'running' not in key)
    assert class_branch_size((64, 128, 256)) == 515_760
    assert dropped - 6 == 515_760  # the counters of six norms are no parameters

    back, family = revert_state_dict(case.model.state_dict(), family='DEYO')
    # the fixture leaves constants out
    assert set(back) == set(case.report.mapped) | {'model.22.dfl.conv.weight'}


def test_evaluation_outputs(case):
    golden, outputs = case.golden, case.outputs()
    np.testing.assert_array_equal(outputs['topk_index'], golden['topk_index'])
    expected = golden['token_score'][golden['topk_index']]
    np.testing.assert_allclose(outputs['topk_score'], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs['pred_logits'], golden['pred_logits'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs['pred_boxes'], golden['pred_boxes'], rtol=0, atol=1e-5)
    with torch.no_grad():
        _, _, selected = case.model.eval().propose(case.image)
    np.testing.assert_allclose(selected.bboxes, golden['enc_boxes'], rtol=0, atol=1e-5)
    # they reach beyond the image, and the decoder sees them as they are
    assert golden['enc_boxes'].min() < 0 and torch.equal(selected.references, selected.bboxes)


@pytest.mark.parametrize(('prefix', 'counts'), [('losses_empty', (0, 7)), ('losses', (5, 9))])
def test_losses_and_gradients(case, prefix, counts):
    model, golden = case.model, case.golden
    model.zero_grad()
    losses = case.losses(counts, with_denoising=False)
    expected = dict(zip(golden[f'{prefix}_keys'].tolist(), golden[f'{prefix}_values']))
    for ours, published in (('cls', 'class'), ('bbox', 'bbox'), ('iou', 'giou')):
        final = losses.pop(f'loss_{ours}')
        # encoder and all layers but the last
        others = sum(value for key, value in losses.items() if key.endswith(f'loss_{ours}'))
        for value, name in ((final, published), (others, f'{published}_aux')):
            np.testing.assert_allclose(value.item(), expected[f'loss_{name}'], rtol=1e-4)
        losses[f'loss_{ours}'] = final
    if prefix == 'losses':
        sum(losses.values()).backward()
        head = [model.decoder, model.query_selection, model.memory_projs, model.bbox_head]
        np.testing.assert_allclose(gradient_norm(head), golden['grad_norm_head'], rtol=1e-4)


@pytest.mark.parametrize('name', SIZES)
def test_every_size(name):
    cfg = Config.fromfile(ROOT / f'configs/deyo/{name}_8xb2-96e_coco.py').model
    with torch.device('meta'):
        model = MODELS.build(cfg)
    own = sum(p.numel() for p in model.parameters())
    assert own + class_branch_size(cfg.neck.in_channels) == SIZES[name]


# -- what holds whatever the weights


def test_only_the_encoders_box_loss_trains_the_box_branch(small):
    losses = small.loss(torch.rand(2, 3, 64, 96), data_samples((2, 3), (64, 96), 10))
    weight = small.bbox_head.box_branch.branches[0].weight
    for name, loss in losses.items():
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
        trained = grad is not None and grad.abs().sum() > 0
        assert trained == (name in ('enc_loss_bbox', 'enc_loss_iou')), name


@pytest.mark.parametrize('counts', [(0, 0), (0, 3), (2, 3)])
@pytest.mark.parametrize('hw', [(64, 96), (128, 64)])
def test_rectangles_and_images_without_objects(small, counts, hw):
    losses = small.loss(torch.rand(2, 3, *hw), data_samples(counts, hw, 10))
    assert len(losses) == 3 * (1 + 3 + 3)  # encoder, layers, layers of the denoising queries
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    missing = [n for n, p in small.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_denoising_groups_do_not_see_each_other(small):
    """Changing what one group holds changes the predictions of that group alone."""
    small.eval()
    small.decoder.train()  # all layers predict
    hw, counts = (64, 96), (2, 3)
    samples = data_samples(counts, hw, 10)
    targets = BatchTargets.from_data_samples(samples, hw, torch.device('cpu'))
    memory, shapes, selected = small.propose(torch.rand(2, 3, *hw))
    denoising = small.denoising(targets, selected.content.shape[1])
    slots, groups = 2 * max(counts), denoising.num_groups
    assert groups == 50 // 3
    before = small.decode(memory, shapes, selected, denoising)
    for group in (0, 5, groups - 1):
        part = slice(group * slots, (group + 1) * slots)
        content, references = denoising.content.clone(), denoising.references.clone()
        content[:, part] = torch.randn_like(content[:, part])
        references[:, part] = torch.randn_like(references[:, part])
        changed = replace(denoising, content=content, references=references)
        after = small.decode(memory, shapes, selected, changed)
        others = torch.ones(before.bboxes.shape[2], dtype=torch.bool)
        others[part] = False
        for old, new in ((before.cls_scores, after.cls_scores), (before.bboxes, after.bboxes)):
            assert torch.equal(old[:, :, others], new[:, :, others])
            assert (old[:, :, part] != new[:, :, part]).any(-1).all()


def test_padding_slots_hold_zeros(small):
    hw = (64, 96)
    targets = BatchTargets.from_data_samples(data_samples((0, 2), hw, 10), hw, torch.device('cpu'))
    content = small.denoising(targets, 5).content
    assert small.denoising.label_embedding.weight.shape == (10, 64)
    assert content[0].abs().max() == 0  # an image without objects
    assert content[1].abs().sum(-1).min() > 0


def test_gradient_of_the_loss_goes_through_its_weight():
    # p = .5 where not matched: .75 * .25 * (p - 2 * (1 - p) * log(1 - p)) = .1875 * 1.193147
    logit = torch.zeros(1, 2, requires_grad=True)
    quality, positive = torch.tensor([[0.0, 0.6]]), torch.tensor([[False, True]])
    loss = full_gradient_varifocal_loss(logit, quality, positive)
    torch.testing.assert_close(loss, iou_varifocal_loss(logit, quality, positive))
    loss.sum().backward()
    # matched: q * (p - q) = .6 * -.1
    torch.testing.assert_close(logit.grad, torch.tensor([[0.1875 * 1.1931472, -0.06]]))
