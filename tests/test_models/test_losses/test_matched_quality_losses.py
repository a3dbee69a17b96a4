# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The classification losses whose target is the IoU: MAL and VFL."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS

from deim_mmdet.models.losses import IoUVarifocalLoss, MatchabilityAwareLoss
from deim_mmdet.models.losses.iou_varifocal_loss import iou_varifocal_loss
from deim_mmdet.models.losses.matchability_aware_loss import matchability_aware_loss
from deim_mmdet.models.task_modules import BatchTargets, Matches
from deim_mmdet.ops.boxes import aligned_iou, aligned_iou_giou, cxcywh_to_xyxy

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def logit(p):
    return torch.tensor(p).logit()


def load_reference():
    data = np.load(FIXTURES / 'loss_class_box.npz')
    counts = [len(data[f'labels_{i}']) for i in range(2)]
    targets = BatchTargets.from_flat(
        torch.tensor(np.concatenate([data[f'labels_{i}'] for i in range(2)])),
        torch.tensor(np.concatenate([data[f'boxes_{i}'] for i in range(2)])),
        counts,
    )
    matches = Matches(
        batch_index=torch.tensor(np.repeat([0, 1], counts)),
        query_index=torch.tensor(np.concatenate([data[f'match_query_{i}'] for i in range(2)])),
        target_index=torch.tensor(
            np.concatenate([data['match_gt_0'], data['match_gt_1'] + counts[0]])
        ),
    )
    return data, targets, matches


def ious_of(bboxes, targets, matches):
    return aligned_iou(
        cxcywh_to_xyxy(matches.gather(bboxes)),
        cxcywh_to_xyxy(targets.boxes[matches.target_index]),
    )


def test_mal_by_hand():
    # matched, p = .8, q = .64: target .64 ** 1.5 = .512
    # -(.512 ln .8 + .488 ln .2) = .1142495 + .7854057 = .8996552
    z = logit([0.8]).requires_grad_()
    positive = matchability_aware_loss(z, torch.tensor([0.64]), torch.tensor([True]))
    assert positive.item() == pytest.approx(0.8996552, abs=1e-6)
    # the gradient is that of a binary cross-entropy: p - target
    positive.backward()
    assert z.grad.item() == pytest.approx(0.8 - 0.512, abs=1e-6)

    # background, p = .8: .8 ** 1.5 * -ln .2 = .7155418 * 1.6094379 = 1.1516200
    z = logit([0.8]).requires_grad_()
    negative = matchability_aware_loss(z, torch.zeros(1), torch.tensor([False]))
    assert negative.item() == pytest.approx(1.15162, abs=1e-5)
    # the weight carries no gradient: .8 ** 1.5 * .8
    negative.backward()
    assert z.grad.item() == pytest.approx(0.8**2.5, abs=1e-6)

    # matched but not overlapping: full weight, target 0
    disjoint = matchability_aware_loss(logit([0.8]), torch.zeros(1), torch.tensor([True]))
    assert disjoint.item() == pytest.approx(-math.log(0.2), abs=1e-6)
    # alpha concerns the background only
    both = torch.tensor([0.64, 0.0]), torch.tensor([True, False])
    with_alpha = matchability_aware_loss(logit([0.8, 0.8]), *both, alpha=0.25)
    assert with_alpha.tolist() == pytest.approx([0.8996552, 0.25 * 1.15162], abs=1e-5)


def test_vfl_by_hand():
    # matched, p = .8, q = .64: .64 * -(.64 ln .8 + .36 ln .2) = .64 * .7222095 = .4622141
    # background: .75 * .64 * -ln .2 = .7725302
    quality, positive = torch.tensor([0.64, 0.0]), torch.tensor([True, False])
    loss = iou_varifocal_loss(logit([0.8, 0.8]), quality, positive)
    assert loss.tolist() == pytest.approx([0.4622141, 0.7725302], abs=1e-6)
    # matched but not overlapping: no weight at all, which is what MAL mends
    assert iou_varifocal_loss(logit([0.8]), torch.zeros(1), torch.tensor([True])).item() == 0


@pytest.mark.parametrize(
    ('loss', 'value', 'grad'),
    [
        (MatchabilityAwareLoss(), 'mal.loss_mal', 'mal.grad_logits'),
        (MatchabilityAwareLoss(alpha=0.25), 'mal_alpha.loss_mal', 'mal_alpha.grad_logits'),
        (MatchabilityAwareLoss(gamma=2.0), 'mal_gamma2.loss_mal', None),
        (IoUVarifocalLoss(), 'vfl.loss_vfl', 'vfl.grad_logits'),
    ],
)
def test_the_reference(loss, value, grad):
    data, targets, matches = load_reference()
    logits = torch.tensor(data['pred_logits'])[None].requires_grad_()
    ious = ious_of(torch.tensor(data['pred_boxes'])[None], targets, matches)
    labels = targets.labels[matches.target_index]
    found = loss.loss_per_set(logits, matches, labels, ious, float(data['num_boxes']))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(float(data[value]), rel=1e-5)
    if grad is not None:
        found.sum().backward()
        torch.testing.assert_close(logits.grad[0], torch.tensor(data[grad]), rtol=1e-4, atol=1e-6)


def test_box_losses_of_the_reference():
    """What the head builds from matched boxes: L1 and 1 - GIoU, both summed."""
    data, targets, matches = load_reference()
    bboxes = torch.tensor(data['pred_boxes'])[None].requires_grad_()
    found, objects = matches.gather(bboxes), targets.boxes[matches.target_index]
    loss_bbox = (found - objects).abs().sum() / float(data['num_boxes'])
    giou = aligned_iou_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(objects))[1]
    loss_giou = (1 - giou).sum() / float(data['num_boxes'])
    assert loss_bbox.item() == pytest.approx(float(data['boxes.loss_bbox']), rel=1e-5)
    assert loss_giou.item() == pytest.approx(float(data['boxes.loss_giou']), rel=1e-5)
    (loss_bbox + loss_giou).backward()
    expected = torch.tensor(data['boxes.grad_boxes'])
    torch.testing.assert_close(bboxes.grad[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('loss', [MatchabilityAwareLoss(), IoUVarifocalLoss()])
def test_sets_together_are_sets_one_by_one(loss):
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 7, 5)
    matches = Matches(  # each set its own pairs
        batch_index=torch.tensor([[0, 0, 1]] * 3),
        query_index=torch.stack([torch.randperm(7)[:3] for _ in range(3)]),
        target_index=torch.arange(3).expand(3, 3),
    )
    labels, ious = torch.randint(5, (3, 3)), torch.rand(3, 3)
    together = loss.loss_per_set(logits, matches, labels, ious, 3.0)
    for s in range(3):
        own = Matches(matches.batch_index[s], matches.query_index[s], matches.target_index[s])
        alone = loss.loss_per_set(logits[s : s + 1], own, labels[s], ious[s : s + 1], 3.0)
        torch.testing.assert_close(together[s : s + 1], alone)
        # pairs that hold in all sets, stated once or for each set
        torch.testing.assert_close(
            loss.loss_per_set(logits, own, labels[s], ious, torch.tensor([3.0, 6.0, 9.0])),
            loss.loss_per_set(
                logits,
                Matches(*(x.expand(3, 3) for x in (own.batch_index, own.query_index, labels[s]))),
                labels[s].expand(3, 3),
                ious,
                3.0,
            )
            / torch.tensor([1.0, 2.0, 3.0]),
        )


@pytest.mark.parametrize('loss', [MatchabilityAwareLoss(), IoUVarifocalLoss()])
@pytest.mark.parametrize('num_queries', [0, 7])
def test_no_pairs(loss, num_queries):
    logits = torch.zeros(2, 3, num_queries, 5, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    found = loss.loss_per_set(logits, Matches(none, none, none), none, torch.zeros(2, 0), 1.0)
    found.sum().backward()
    assert found.shape == (2,) and logits.grad.shape == logits.shape
    if num_queries == 0:
        assert found.tolist() == [0, 0]
    else:  # all background, p = .5
        weight = loss.elementwise(torch.zeros(1), torch.zeros(1), torch.zeros(1).bool()).item()
        assert found.tolist() == pytest.approx([3 * 7 * 5 * weight] * 2, rel=1e-5)
        assert weight > 0


def test_targets_carry_no_gradient():
    ious = torch.tensor([[0.5]], requires_grad=True)
    logits = torch.zeros(1, 1, 2, 3, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.long)
    loss = MatchabilityAwareLoss().loss_per_set(logits, Matches(zero, zero, zero), zero, ious, 1.0)
    loss.sum().backward()
    assert ious.grad is None and logits.grad.abs().sum() > 0


def test_half_precision_is_computed_in_single():
    logits = torch.full((1, 1, 2, 3), 30.0, dtype=torch.bfloat16)
    none = torch.zeros(0, dtype=torch.long)
    loss = MatchabilityAwareLoss().loss_per_set(
        logits, Matches(none, none, none), none, torch.zeros(1, 0), 1.0
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(6 * 30, rel=1e-6)


class TestInterfaceOfMmdet:
    """As ``loss_cls`` of mmdet's heads: ``loss(pred, (labels, ious), weight, avg_factor)``."""

    pred = logit([[0.8, 0.3], [0.8, 0.1]])
    labels, ious = torch.tensor([0, 2]), torch.tensor([0.64, 0.0])  # 2 is background
    # positive .8996552; background .3 ** 1.5 * -ln .7 = .0586080, 1.15162, .1 ** 1.5 * .1053605
    rows = (0.8996552 + 0.0586080, 1.1516200 + 0.0033318)

    @pytest.mark.parametrize(
        ('arguments', 'expected'),
        [
            (dict(reduction_override='none'), rows),
            ({}, sum(rows) / 2),
            (dict(reduction_override='sum'), sum(rows)),
            (dict(avg_factor=4.0), sum(rows) / 4),
            (dict(weight=torch.tensor([1.0, 0.0]), avg_factor=4.0), rows[0] / 4),
            (dict(weight=torch.tensor([0.0, 2.0]), reduction_override='sum'), 2 * rows[1]),
        ],
    )
    def test_reductions(self, arguments, expected):
        for loss_weight in (1.0, 2.0):
            loss = MatchabilityAwareLoss(loss_weight=loss_weight)
            found = loss(self.pred, (self.labels, self.ious), **arguments) / loss_weight
            assert found.tolist() == pytest.approx(expected, abs=1e-5)

    def test_the_class_reduction_is_the_default_of_the_call(self):
        loss = MatchabilityAwareLoss(reduction='sum')
        assert loss(self.pred, (self.labels, self.ious)).item() == pytest.approx(sum(self.rows))
        with pytest.raises(ValueError, match='reduction must be'):
            loss(self.pred, (self.labels, self.ious), reduction_override='max')

    def test_dense_targets(self):
        dense = torch.tensor([[0.64, 0], [0, 0]])
        for loss in (MatchabilityAwareLoss(), IoUVarifocalLoss()):
            torch.testing.assert_close(
                loss(self.pred, dense), loss(self.pred, (self.labels, self.ious))
            )

    def test_labels_alone_count_as_perfect_boxes_and_warn_once(self):
        loss = MatchabilityAwareLoss()
        with pytest.warns(UserWarning, match='QualityDDQDETRHead'):
            found = loss(self.pred, self.labels)
        torch.testing.assert_close(found, loss(self.pred, (self.labels, torch.ones(2))))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            loss(self.pred, self.labels)

    def test_negative_labels_and_no_rows(self):
        loss = MatchabilityAwareLoss()
        ignored = loss(self.pred, (torch.tensor([0, -1]), self.ious))
        torch.testing.assert_close(ignored, loss(self.pred, (self.labels, self.ious)))
        pred = torch.zeros(0, 2, requires_grad=True)
        empty = loss(pred, (self.labels[:0], self.ious[:0]), avg_factor=1.0)
        empty.backward()
        assert empty.item() == 0 and pred.grad is not None

    def test_agrees_with_the_stacked_sets(self):
        data, targets, matches = load_reference()
        logits = torch.tensor(data['pred_logits'])
        ious = ious_of(torch.tensor(data['pred_boxes'])[None], targets, matches)
        labels = torch.full((2, 30), 80)
        scores = torch.zeros(2, 30)
        labels[matches.batch_index, matches.query_index] = targets.labels[matches.target_index]
        scores[matches.batch_index, matches.query_index] = ious[0]
        loss = MatchabilityAwareLoss()
        flat = loss(logits.flatten(0, 1), (labels.flatten(), scores.flatten()), avg_factor=8.0)
        assert flat.item() == pytest.approx(float(data['mal.loss_mal']), rel=1e-5)


@pytest.mark.parametrize('name', ['MatchabilityAwareLoss', 'IoUVarifocalLoss'])
def test_registered_as_a_quality_focal_loss(name):
    loss = MODELS.build(dict(type=name, use_sigmoid=True, loss_weight=2.0))
    assert isinstance(loss, QualityFocalLoss)
    assert loss.use_sigmoid and loss.loss_weight == 2
    with pytest.raises(ValueError, match='use_sigmoid=True only'):
        MODELS.build(dict(type=name, use_sigmoid=False))
    with pytest.raises(ValueError, match='must be at least 0, got -1'):
        MODELS.build(dict(type=name, gamma=-1))
    # what a child config gets when it does not delete its parent's FocalLoss
    with pytest.warns(UserWarning, match='_delete_=True'):
        MODELS.build(dict(type=name, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0))
