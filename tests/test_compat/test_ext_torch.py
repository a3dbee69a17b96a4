# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The PyTorch ops against numbers derived by hand, and against mmcv's where it is compiled."""

import math

import mmcv._ext
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

from deim_mmdet.compat import _ext_torch

needs_compiled_ops = pytest.mark.skipif(
    mmcv._ext.__file__ == _ext_torch.__file__, reason='mmcv-lite has no compiled ops'
)

# Two 10 x 10 boxes shifted by 5: intersection 50, union 150, IoU 1/3. With offset 1 they are
# 11 x 11: intersection 6 * 11 = 66, union 242 - 66 = 176, IoU .375.
BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]])
SCORES = torch.tensor([0.6, 0.9, 0.3])


@pytest.mark.parametrize(
    ('threshold', 'offset', 'kept'),
    [
        (0.30, 0, [1, 2]),  # 1/3 > .30: the lower score goes
        (0.34, 0, [1, 0, 2]),  # 1/3 < .34: both stay, by score
        (0.34, 1, [1, 2]),  # .375 > .34
        (0.38, 1, [1, 0, 2]),
    ],
)
def test_nms_by_hand(threshold, offset, kept):
    assert _ext_torch.nms(BOXES, SCORES, threshold, offset).tolist() == kept


def test_nms_suppressed_box_suppresses_nobody():
    """In a chain the first removes the second, so the third, which only that overlaps, stays."""
    chain = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    assert _ext_torch.nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.3, 0).tolist() == [0, 2]


def test_nms_without_boxes():
    kept = _ext_torch.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, 0)
    assert kept.shape == (0,) and kept.dtype == torch.int64


def test_nms_blocks_agree_with_one_block(monkeypatch):
    boxes, scores = random_boxes(600)
    in_blocks = _ext_torch.nms(boxes, scores, 0.4, 0)
    monkeypatch.setattr(_ext_torch, 'NMS_BLOCK', 10_000)
    assert torch.equal(in_blocks, _ext_torch.nms(boxes, scores, 0.4, 0))
    assert 0 < len(in_blocks) < 600


@pytest.mark.parametrize(
    ('method', 'score'),
    [
        (0, None),  # naive: IoU 1/3 >= .3, the box goes
        (1, 0.6 * (1 - 1 / 3)),
        (2, 0.6 * math.exp(-((1 / 3) ** 2) / 0.5)),
    ],
)
def test_softnms_by_hand(method, score):
    dets = torch.full((3, 5), -1.0)
    kept = _ext_torch.softnms(BOXES, SCORES, dets, 0.3, 0.5, 1e-3, method, 0)
    expected = [(1, 0.9), (2, 0.3)] if score is None else [(1, 0.9), (0, score), (2, 0.3)]
    assert kept.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(dets[: len(kept), 4], torch.tensor([value for _, value in expected]))
    torch.testing.assert_close(dets[: len(kept), :4], BOXES[kept])


def test_softnms_leaves_its_inputs_alone():
    boxes, scores = BOXES.clone(), SCORES.clone()
    _ext_torch.softnms(boxes, scores, torch.zeros(3, 5), 0.3, 0.5, 1e-3, 1, 0)
    assert torch.equal(boxes, BOXES) and torch.equal(scores, SCORES)


def test_deformable_attention_by_hand():
    """One head, one 2 x 2 level with values 1 2 / 3 4; two points of weight 3/4 and 1/4.

    The centre (.5, .5) is the mean 2.5; (.25, .25) is the centre of the first pixel, 1.
    .75 * 2.5 + .25 * 1 = 2.125
    """
    output = _ext_torch.ms_deform_attn_forward(
        torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1),
        torch.tensor([[2, 2]]),
        torch.tensor([0]),
        torch.tensor([[0.5, 0.5], [0.25, 0.25]]).view(1, 1, 1, 1, 2, 2),
        torch.tensor([0.75, 0.25]).view(1, 1, 1, 1, 2),
        64,
    )
    torch.testing.assert_close(output, torch.tensor([[[2.125]]]))


def test_deformable_attention_gradients(monkeypatch):
    """mmcv's autograd function over the substitute, against finite differences in double."""
    monkeypatch.setattr('mmcv.ops.multi_scale_deform_attn.ext_module', _ext_torch)
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, dtype=torch.double, generator=generator, requires_grad=True)

    shapes, starts = torch.tensor([[3, 2], [1, 2]]), torch.tensor([0, 6])
    value, locations, weights = random(2, 8, 2, 3), random(2, 3, 2, 2, 2, 2), random(2, 3, 2, 2, 2)
    assert torch.autograd.gradcheck(
        lambda v, x, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, x, w, 64),
        (value, locations, weights),
    )


def test_focal_loss_by_hand():
    """Logit 0, p = .5, gamma 2: positive .25 * .25 * ln 2, negative .75 * .25 * ln 2."""
    output = torch.zeros(2, 2)
    _ext_torch.sigmoid_focal_loss_forward(
        torch.zeros(2, 2), torch.tensor([1, 2]), torch.zeros(0), output, 2.0, 0.25
    )
    positive, negative = 0.0625 * math.log(2), 0.1875 * math.log(2)
    # the second row is background: class 2 of 2
    torch.testing.assert_close(output, torch.tensor([[negative, positive], [negative, negative]]))


def test_focal_loss_agrees_with_mmdet_and_has_its_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, dtype=torch.double, generator=generator, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1])
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3]
    expected = py_sigmoid_focal_loss(logits, one_hot, gamma=1.5, alpha=0.3, reduction='none')
    (gradient,) = torch.autograd.grad(expected.sum(), logits)

    output, grad_input = torch.zeros_like(logits), torch.zeros_like(logits)
    arguments = (logits.detach(), target, logits.new_zeros(0))
    _ext_torch.sigmoid_focal_loss_forward(*arguments, output, gamma=1.5, alpha=0.3)
    _ext_torch.sigmoid_focal_loss_backward(*arguments, grad_input, gamma=1.5, alpha=0.3)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(grad_input, gradient)


def test_focal_loss_class_weights():
    """Each row is weighted by its target class; background keeps 1."""
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 2])
    plain, weighted = torch.zeros(3, 2), torch.zeros(3, 2)
    _ext_torch.sigmoid_focal_loss_forward(logits, target, torch.zeros(0), plain, 2.0, 0.25)
    weights = torch.tensor([3.0, 5.0])
    _ext_torch.sigmoid_focal_loss_forward(logits, target, weights, weighted, 2.0, 0.25)
    torch.testing.assert_close(weighted, plain * torch.tensor([[3.0], [5.0], [1.0]]))


@needs_compiled_ops
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 2, 30, 700])
def test_nms_equals_the_compiled_op(count, offset):
    boxes, scores = random_boxes(count)
    for threshold in (0.1, 0.5, 0.9):
        expected = mmcv._ext.nms(boxes, scores, iou_threshold=threshold, offset=offset)
        assert torch.equal(_ext_torch.nms(boxes, scores, threshold, offset), expected)


@needs_compiled_ops
@pytest.mark.parametrize('method', [0, 1, 2])
@pytest.mark.parametrize('count', [0, 1, 2, 30, 700])
def test_softnms_equals_the_compiled_op(count, method):
    boxes, scores = random_boxes(count)
    scores = scores.mul(20).round().div(20)  # many equal scores
    for offset in (0, 1):
        arguments = dict(iou_threshold=0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
        dets, expected_dets = torch.zeros(count, 5), torch.zeros(count, 5)
        kept = _ext_torch.softnms(boxes, scores, dets, **arguments)
        expected = mmcv._ext.softnms(boxes, scores, expected_dets, **arguments)
        assert torch.equal(kept, expected)
        torch.testing.assert_close(dets[: len(kept)], expected_dets[: len(kept)])


def random_boxes(count):
    generator = torch.Generator().manual_seed(count)
    boxes = torch.rand(count, 4, generator=generator) * 100
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * 0.4
    return boxes, torch.rand(count, generator=generator)
