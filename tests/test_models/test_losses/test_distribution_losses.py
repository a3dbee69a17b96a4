# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The losses on edge distributions: FGL and DDF."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.losses import DecoupledDistillationFocalLoss, FineGrainedLocalizationLoss
from deim_mmdet.models.losses.decoupled_distillation_focal_loss import edge_divergence
from deim_mmdet.models.losses.fine_grained_localization_loss import fine_grained_localization_loss
from deim_mmdet.models.task_modules import Matches
from deim_mmdet.ops.boxes import aligned_iou, cxcywh_to_xyxy
from deim_mmdet.ops.edge_distances import boxes_to_bins, weighting_function

FIXTURES = Path(__file__).parents[2] / 'fixtures'
NONE = torch.zeros(0, dtype=torch.long)
NO_MATCHES = Matches(NONE, NONE, NONE)


@pytest.fixture(params=[4, 8])
def reference(request):
    data = np.load(FIXTURES / f'loss_fgl_ddf_rs{request.param}.npz')
    data = {k: torch.tensor(data[k]) for k in data}
    counts = [len(data[f'labels_{i}']) for i in range(2)]
    data['matches'] = Matches(
        batch_index=torch.tensor(np.repeat([0, 1], counts)),
        query_index=torch.cat([data['match_query_0'], data['match_query_1']]),
        target_index=torch.cat([data['match_gt_0'], data['match_gt_1'] + counts[0]]),
    )
    boxes = torch.cat([data['boxes_0'], data['boxes_1']])
    data['objects'] = boxes[data['matches'].target_index]
    data['bins'] = boxes_to_bins(
        data['matches'].gather(data['ref_points'][None])[0],
        data['objects'],
        weighting_function(int(data['reg_max']), float(data['up']), float(data['reg_scale'])),
        float(data['reg_scale']),
    )
    return data


def ious_of(data, prefix):
    bboxes = data['matches'].gather(data[f'{prefix}pred_boxes'][None])
    return aligned_iou(cxcywh_to_xyxy(bboxes), cxcywh_to_xyxy(data['objects']))


def test_bins_of_the_reference(reference):
    bins, left, right = (x.flatten() for x in reference['bins'])
    assert torch.equal(bins, reference['fgl_target'].long())
    torch.testing.assert_close(left, reference['fgl_weight_left'], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(right, reference['fgl_weight_right'], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('prefix', ['', 'dn_'])
def test_fgl_of_the_reference(reference, prefix):
    corners = reference[f'{prefix}pred_corners'][None].requires_grad_()
    loss = FineGrainedLocalizationLoss(loss_weight=1.0)(
        reference['matches'].gather(corners),
        reference['bins'],
        ious_of(reference, prefix),
        reference[f'{prefix}num_boxes'],
    )
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(reference[f'{prefix}loss_fgl'].item(), rel=1e-5)
    if not prefix:
        loss.sum().backward()
        expected = reference['grad_loss_fgl']
        torch.testing.assert_close(corners.grad[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('prefix', ['', 'dn_'])
def test_ddf_of_the_reference(reference, prefix):
    """The denoising queries reuse the roots of the normal ones."""
    student = reference[f'{prefix}pred_corners'].requires_grad_()
    teacher = reference[f'{prefix}teacher_corners'].requires_grad_()
    ddf = DecoupledDistillationFocalLoss(float(reference['temperature']), loss_weight=1.0)
    roots = ddf.roots(len(reference['matches']), *student.shape[:2])
    assert roots == pytest.approx((reference['root_pos'].item(), reference['root_neg'].item()))
    loss = ddf(
        torch.stack((student, teacher)),
        reference[f'{prefix}teacher_logits'],
        reference['matches'],
        ious_of(reference, prefix),
        roots,
    )
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(reference[f'{prefix}loss_ddf'].item(), rel=1e-5)
    loss.sum().backward()
    assert teacher.grad is None or teacher.grad.abs().max() == 0
    if not prefix:
        expected = reference['grad_loss_ddf']
        torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-8)


def test_fgl_by_hand():
    # five bins, all alike: log p = -ln 5; the weights of a side sum to 1, so each side costs ln 5
    bins = torch.tensor([[0, 1, 2, 3]])
    right = torch.tensor([[0.25, 0.0, 1.0, 0.5]])
    loss = fine_grained_localization_loss(torch.zeros(1, 20), bins, 1 - right, right)
    assert loss.tolist() == pytest.approx([4 * math.log(5)])
    # left side certain of bin 1: -(.75 ln p0 + .25 ln p1) = .75 * 100 against bins 0 and 1
    corners = torch.zeros(1, 20)
    corners[0, 1] = 100
    loss = fine_grained_localization_loss(corners, bins, 1 - right, right)
    assert loss.tolist() == pytest.approx([75 + 3 * math.log(5)], rel=1e-6)
    # by IoU, weight and normaliser: .5 * .15 * 4 ln 5 / 2, two layers
    fgl = FineGrainedLocalizationLoss()
    ious = torch.tensor([[0.5], [0.0]])
    loss = fgl(torch.zeros(2, 1, 20), (bins, 1 - right, right), ious, 2.0)
    assert loss.tolist() == pytest.approx([0.15 * 0.5 * 4 * math.log(5) / 2, 0])


def test_divergence_by_hand():
    # one side differs: student (1/2, 1/2), teacher (3/4, 1/4) at temperature 2, times 4
    # 3/4 ln(3/2) + 1/4 ln(1/2) = .3040988 - .1732868 = .1308120
    student = torch.zeros(1, 1, 8)
    teacher = torch.zeros(1, 1, 8)
    teacher[..., 0] = 2 * math.log(3)
    assert edge_divergence(student, teacher, 2.0).item() == pytest.approx(4 * 0.130812, abs=1e-5)
    assert edge_divergence(teacher, teacher, 2.0).item() == 0


def test_ddf_by_hand():
    """Two queries, one matched; every side of both diverges by d."""
    teacher = torch.zeros(1, 2, 8)
    teacher[..., ::2] = 5 * math.log(3)  # (3/4, 1/4) on all four sides at temperature 5
    d = 25 * 0.130812
    corners = torch.stack((torch.zeros(1, 2, 8), teacher))
    scores = torch.tensor([[[4.0, 5.0], [0.0, -1.0]]])  # best probability of the other query: .5
    zero = torch.zeros(1, dtype=torch.long)
    matches = Matches(zero, zero, zero)
    ddf = DecoupledDistillationFocalLoss()
    # 4 sides each: equal roots, so the mean of .8 d and .5 d
    roots = ddf.roots(1, 1, 2)
    assert roots == pytest.approx((math.sqrt(32), math.sqrt(32)))
    loss = ddf(corners, scores, matches, torch.tensor([[0.8], [0.1]]), roots)
    assert loss.tolist() == pytest.approx([1.5 * 0.65 * d], rel=1e-4)
    # other roots: (3 * .8 + 1 * .5) / 4
    loss = ddf(corners, scores, matches, torch.tensor([[0.8]]), (3.0, 1.0))
    assert loss.tolist() == pytest.approx([1.5 * 0.725 * d], rel=1e-4)


def test_layers_together_are_layers_one_by_one():
    torch.manual_seed(0)
    corners, scores = torch.randn(4, 2, 6, 132), torch.randn(2, 6, 5)
    index = torch.tensor([0, 0, 1]), torch.tensor([3, 1, 5])
    matches, ious = Matches(*index, torch.arange(3)), torch.rand(4, 3)
    ddf = DecoupledDistillationFocalLoss()
    roots = ddf.roots(3, 2, 6)
    together = ddf(corners, scores, matches, ious, roots)
    fgl = FineGrainedLocalizationLoss()
    right = torch.rand(3, 4)
    bins = (torch.randint(32, (3, 4)), 1 - right, right)
    fgl_together = fgl(matches.gather(corners), bins, ious, 3.0)
    assert together.shape == (3,) and fgl_together.shape == (4,)
    for i in range(3):
        pair = corners[[i, 3]]
        alone = ddf(pair, scores, matches, ious[[i, 3]], roots)
        torch.testing.assert_close(together[i : i + 1], alone)
        alone = fgl(matches.gather(corners[i : i + 1]), bins, ious[i : i + 1], 3.0)
        torch.testing.assert_close(fgl_together[i : i + 1], alone)


def test_everything_or_nothing_matched():
    torch.manual_seed(0)
    corners, scores = torch.randn(2, 1, 2, 132, requires_grad=True), torch.randn(1, 2, 5)
    ddf = DecoupledDistillationFocalLoss()
    both = torch.tensor([0, 1])
    everything = Matches(torch.zeros_like(both), both, both)
    for matches, ious in ((everything, torch.ones(2, 2)), (NO_MATCHES, torch.zeros(2, 0))):
        loss = ddf(corners, scores, matches, ious, ddf.roots(len(matches), 1, 2))
        assert loss.isfinite().all() and loss.item() > 0
        (grad,) = torch.autograd.grad(loss.sum(), corners)
        assert grad.isfinite().all()
        # a plain mean over the 8 sides, since one of the two groups is empty
        weights = torch.ones(1, 2) if len(matches) else scores.amax(-1).sigmoid()
        expected = (edge_divergence(corners[0], corners[1], 5.0) * weights).sum() / 8
        torch.testing.assert_close(loss[0], 1.5 * expected)


@pytest.mark.parametrize('num_layers', [1, 3])
def test_no_queries_at_all(num_layers):
    """Denoising part of a batch without objects."""
    corners = torch.zeros(num_layers, 2, 0, 132, requires_grad=True)
    none = torch.zeros(0, 4)
    fgl = FineGrainedLocalizationLoss()(
        NO_MATCHES.gather(corners), (none.long(), none, none), torch.zeros(num_layers, 0), 1.0
    )
    ddf = DecoupledDistillationFocalLoss()
    roots = ddf.roots(0, 2, 300)  # of the normal queries
    ddf = ddf(corners, torch.zeros(2, 0, 80), NO_MATCHES, torch.zeros(num_layers, 0), roots)
    assert fgl.tolist() == [0] * num_layers and ddf.tolist() == [0] * (num_layers - 1)
    (fgl.sum() + ddf.sum()).backward()
    assert corners.grad is not None


def test_registered():
    assert MODELS.build(dict(type='FineGrainedLocalizationLoss')).loss_weight == 0.15
    ddf = MODELS.build(dict(type='DecoupledDistillationFocalLoss'))
    assert (ddf.temperature, ddf.loss_weight) == (5, 1.5)
    with pytest.raises(ValueError, match='temperature must be positive, got 0'):
        MODELS.build(dict(type='DecoupledDistillationFocalLoss', temperature=0))
