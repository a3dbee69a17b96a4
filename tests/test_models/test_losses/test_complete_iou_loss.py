# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmdet.models.losses import CIoULoss
from mmdet.registry import MODELS

from deim_mmdet.models.losses import CompleteIoULoss, complete_iou_loss

# IoU 1/2, same centre, w : h = 1 : 1 against 1 : 2; hull (4, 4). With v = 4/pi^2 (atan 1 - atan
# 1/2)^2 = 0.041956 and a = v / (1/2 + v) = 0.077421 the loss is 1/2 + 0 + a v = 0.503248.
# Shifted by 4 to the right there is no overlap: d^2 / c^2 = 16 / (7^2 + 4^2), a = v / (1 + v).
V = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
CASES = {
    'empty': ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    'the same': ([1, 2, 5, 4], [1, 2, 5, 4], 0.0),
    'other aspect': ([0, 0, 4, 4], [1, 0, 3, 4], 0.5 + V * V / (0.5 + V)),
    'apart': ([0, 0, 4, 4], [5, 0, 7, 4], 1 + 16 / 65 + V * V / (1 + V)),
}


@pytest.mark.parametrize('name', CASES)
def test_by_hand(name):
    pred, target, expected = CASES[name]
    pred = torch.tensor([pred], dtype=torch.float32, requires_grad=True)
    target = torch.tensor([target], dtype=torch.float32)
    loss = complete_iou_loss(pred, target, reduction='none')
    torch.testing.assert_close(loss, torch.tensor([expected]), rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    assert torch.isfinite(pred.grad).all()


def test_agrees_with_mmdet_where_that_counts_the_aspect():
    """mmdet's leaves the aspect out below an IoU of 1/2 (arXiv 2005.03572)."""
    torch.manual_seed(0)
    target = torch.rand(200, 2) * 20
    target = torch.cat([target, target + 10 + torch.rand(200, 2) * 10], dim=1)
    pred = (target + torch.rand(200, 4)).requires_grad_()
    mine = complete_iou_loss(pred, target, reduction='none')
    theirs = CIoULoss()(pred, target, reduction_override='none')
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), pred)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_weights_and_reduction():
    loss = MODELS.build(dict(type='CompleteIoULoss', loss_weight=2.0))
    assert isinstance(loss, CompleteIoULoss)
    pred = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 2.0, 2.0]])
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(
        loss(pred, target, weight=torch.tensor([1.0, 3.0]), avg_factor=2.0),
        2 * 3 * complete_iou_loss(pred[1:], target[1:]) / 2,
    )
    assert loss(pred[:0], target[:0], avg_factor=1.0) == 0
    assert loss(pred, target, reduction_override='none').shape == (2,)
