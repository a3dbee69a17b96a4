# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from deim_mmdet.ops.boxes import (
    aligned_iou,
    aligned_iou_giou,
    cxcywh_to_xyxy,
    xyxy_to_cxcywh,
)


def random_xyxy(*shape):
    return cxcywh_to_xyxy(torch.rand(*shape, 4) * 0.5 + 0.1)


def test_layouts_by_hand():
    # centre (3, 5), size (2, 4): x from 2 to 4, y from 3 to 7
    cxcywh, xyxy = torch.tensor([3.0, 5, 2, 4]), torch.tensor([2.0, 3, 4, 7])
    torch.testing.assert_close(cxcywh_to_xyxy(cxcywh), xyxy)
    torch.testing.assert_close(xyxy_to_cxcywh(xyxy), cxcywh)


@pytest.mark.parametrize('shape', [(0,), (), (3,), (2, 3, 5)])
def test_layouts_are_inverse_for_any_leading_shape(shape):
    torch.manual_seed(0)
    boxes = torch.rand(*shape, 4)
    assert cxcywh_to_xyxy(boxes).shape == boxes.shape
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


@pytest.mark.parametrize(
    ('a', 'b', 'iou', 'giou'),
    [
        # the same box
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        # 1 of 4 + 4 - 1 = 7 shared; hull 3 x 3: 1/7 - (9 - 7) / 9
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        # one inside the other, 1 of 4; the hull is the larger one
        ([0, 0, 2, 2], [0, 0, 1, 1], 1 / 4, 1 / 4),
        # apart: union 2, hull 3 x 1: 0 - (3 - 2) / 3
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),
        # touching edges: union 2 = hull
        ([0, 0, 1, 1], [1, 0, 2, 1], 0, 0),
        # no area against area: union 4, hull 4
        ([1, 1, 1, 1], [0, 0, 2, 2], 0, 0),
        # no area at all, apart: union 0, hull 1 x 1
        ([0, 0, 0, 0], [1, 1, 1, 1], 0, -1),
    ],
)
def test_overlaps_by_hand(a, b, iou, giou):
    a, b = torch.tensor([a]).float(), torch.tensor([b]).float()
    found_iou, found_giou = aligned_iou_giou(a, b)
    torch.testing.assert_close(found_iou, torch.tensor([float(iou)]))
    torch.testing.assert_close(found_giou, torch.tensor([float(giou)]))
    torch.testing.assert_close(aligned_iou(a, b), found_iou)


def test_two_boxes_without_area_at_the_same_place_are_finite():
    point = torch.ones(1, 4, requires_grad=True)
    iou, giou = aligned_iou_giou(point, torch.ones(1, 4))
    (iou + giou).sum().backward()
    assert iou.item() == 0
    assert giou.isfinite().all() and point.grad.isfinite().all()


def test_broadcasting_gives_every_pair():
    torch.manual_seed(0)
    a, b = random_xyxy(3, 2, 7), random_xyxy(2, 5)
    found = aligned_iou_giou(a[..., :, None, :], b[..., None, :, :])[1]
    assert found.shape == (3, 2, 7, 5)
    torch.testing.assert_close(found[1, 0, 4, 2], aligned_iou_giou(a[1, 0, 4], b[0, 2])[1])
    assert aligned_iou(a[:, :, :0, None], b[:, None]).shape == (3, 2, 0, 5)


def test_gradient_of_giou():
    torch.manual_seed(0)
    a, b = random_xyxy(6).double().requires_grad_(), random_xyxy(6).double()
    assert torch.autograd.gradcheck(lambda x: aligned_iou_giou(x, b), a)


def test_agrees_with_mmdet():
    from mmdet.structures.bbox import bbox_overlaps

    torch.manual_seed(0)
    a, b = random_xyxy(20), random_xyxy(20)
    iou, giou = aligned_iou_giou(a, b)
    torch.testing.assert_close(iou, bbox_overlaps(a, b, is_aligned=True))
    torch.testing.assert_close(giou, bbox_overlaps(a, b, mode='giou', is_aligned=True))
