# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from deim_mmdet.ops.boxes import cxcywh_to_xyxy
from deim_mmdet.ops.edge_distances import (
    boxes_to_bins,
    distances_to_boxes,
    integral,
    weighting_function,
)

FIXTURES = Path(__file__).parents[1] / 'fixtures'
REG_MAX = 32


@pytest.fixture(params=[4, 8])
def reference(request):
    """The fixture of one reg_scale, as tensors under the names without prefix."""
    data = np.load(FIXTURES / 'dfine_utils.npz')
    prefix = f'rs{request.param}.'
    tensors = {k[len(prefix) :]: torch.tensor(data[k]) for k in data if k.startswith(prefix)}
    shared = {k: torch.tensor(data[k]) for k in ('points', 'gt_cxcywh', 'distance')}
    return dict(tensors, **shared, reg_scale=float(request.param))


def test_weighting_function_by_hand():
    # reg_max 6, up 0.5, reg_scale 4: u = 2; step ** 2 - 1 = u, so step = sqrt(3)
    step = 3**0.5
    expected = torch.tensor([-4, -2, 1 - step, 0, step - 1, 2, 4])
    torch.testing.assert_close(weighting_function(6, 0.5, 4), expected)
    # the sign of reg_scale is of no account
    torch.testing.assert_close(weighting_function(6, 0.5, -4), expected)


def test_weighting_function_of_the_reference(reference):
    found = weighting_function(REG_MAX, 0.5, reference['reg_scale'])
    torch.testing.assert_close(found, reference['weighting_function'], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, reference['weighting_function_deploy'], rtol=1e-6, atol=1e-6)
    assert (found.diff() > 0).all()
    torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize(
    ('args', 'match'),
    [
        ((31, 0.5, 4), 'reg_max must be even'),
        ((2, 0.5, 4), 'at least 4, got 2'),
        ((32, 0.0, 4), 'must not be 0'),
    ],
)
def test_weighting_function_refuses(args, match):
    with pytest.raises(ValueError, match=match):
        weighting_function(*args)


def test_integral_is_the_expectation():
    weights = weighting_function(REG_MAX)
    # all bins alike: the mean of an odd function is 0
    torch.testing.assert_close(integral(torch.zeros(2, 3, 132), weights), torch.zeros(2, 3, 4))
    # one bin far above the rest: its distance, another one for each side
    bins = torch.tensor([0, 7, 16, 32])
    corners = torch.full((4, 33), -50.0)
    corners[torch.arange(4), bins] = 50
    torch.testing.assert_close(integral(corners.flatten(), weights), weights[bins])


def test_integral_under_autocast_keeps_single_precision():
    torch.manual_seed(0)
    corners, weights = torch.randn(64, 132), weighting_function(REG_MAX)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = integral(corners, weights)
    torch.testing.assert_close(found, integral(corners, weights), rtol=1e-5, atol=1e-5)


def test_distances_to_boxes_of_the_reference(reference):
    found = distances_to_boxes(reference['points'], reference['distance'], reference['reg_scale'])
    torch.testing.assert_close(found, reference['distance2bbox'], rtol=1e-5, atol=1e-5)


def test_distances_to_boxes_by_hand():
    # reference x 0.4..0.6, y 0.3..0.7; reg_scale 4: units of 0.05 and 0.1
    references = torch.tensor([0.5, 0.5, 0.2, 0.4])
    zero = distances_to_boxes(references, torch.zeros(4), 4)
    torch.testing.assert_close(zero, references)
    # left out by 1 unit (0.35), top in by 1 (0.4), right in by 2 (0.5), bottom out by 2 (0.9)
    moved = distances_to_boxes(references, torch.tensor([1.0, -1, -2, 2]), 4)
    torch.testing.assert_close(cxcywh_to_xyxy(moved), torch.tensor([0.35, 0.4, 0.5, 0.9]))


def test_boxes_to_bins_of_the_reference(reference):
    """Boxes far outside the range and tiny references included."""
    weights = reference['weighting_function']
    bins, left, right = boxes_to_bins(
        reference['points'], reference['gt_cxcywh'], weights, reference['reg_scale']
    )
    # the reference marks a distance beyond the last bin by 31.9 and uses its integer part
    expected = reference['target'].view(-1, 4)
    assert (expected == 31.9).any() and (expected == 0).any()
    assert torch.equal(bins, expected.long())
    torch.testing.assert_close(left, reference['weight_left'].view(-1, 4), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(right, reference['weight_right'].view(-1, 4), rtol=1e-4, atol=2e-5)


def test_boxes_to_bins_inverts_distances_to_boxes():
    torch.manual_seed(0)
    weights = weighting_function(REG_MAX)
    references = torch.rand(50, 4) * 0.5 + 0.2
    distances = torch.rand(50, 4) * 7.9 - 3.95  # within the range (-4, 4)
    boxes = distances_to_boxes(references, distances, 4)
    bins, left, right = boxes_to_bins(references, boxes, weights, 4)
    torch.testing.assert_close(
        left * weights[bins] + right * weights[bins + 1], distances, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ('reference', 'box'),
    [
        ([0.5, 0.5, 0, 0], [0.5, 0.5, 0.2, 0.2]),  # no size: infinitely far
        ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0, 0]),  # an object without size
        ([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]),  # both
        ([0.5, 0.5, 0.2, 0.2], [float('nan')] * 4),
        ([0.5, 0.5, 0.2, 0.2], [float('inf')] * 4),
    ],
)
def test_boxes_to_bins_never_leaves_the_table(reference, box):
    weights = weighting_function(REG_MAX)
    bins, left, right = boxes_to_bins(torch.tensor(reference), torch.tensor(box), weights, 4)
    assert ((bins >= 0) & (bins < REG_MAX)).all()
    torch.testing.assert_close(left + right, torch.ones(4))
    assert ((left >= 0) & (right >= 0)).all()


def test_boxes_to_bins_of_nothing():
    weights = weighting_function(REG_MAX)
    bins, left, right = boxes_to_bins(torch.zeros(0, 4), torch.zeros(0, 4), weights, 4)
    assert bins.shape == left.shape == right.shape == (0, 4)
