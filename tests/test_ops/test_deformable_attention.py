# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

from deim_mmdet.ops.deformable_attention import (
    deformable_sampling,
    discrete_sampling,
    split_levels,
    sum_of_rows,
)

SHAPES = ((4, 6), (2, 3))


def random_inputs(points_per_level, bs=2, heads=2, dims=3, queries=5):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(h * w for h, w in SHAPES)
    memory = torch.randn(bs, tokens, heads * dims, generator=generator)
    points = sum(points_per_level)
    # a tenth of the points lies outside the map
    locations = torch.rand(bs, queries, heads, points, 2, generator=generator) * 1.2 - 0.1
    weights = torch.rand(bs, queries, heads, points, generator=generator).softmax(-1)
    return memory, locations, weights


def test_equals_mmcv_where_levels_have_equally_many_points():
    memory, locations, weights = random_inputs((4, 4))
    out = deformable_sampling(split_levels(memory, 2, SHAPES), locations, weights, (4, 4))
    expected = multi_scale_deformable_attn_pytorch(
        memory.unflatten(-1, (2, 3)),
        torch.tensor(SHAPES),
        locations.unflatten(3, (2, 4)),
        weights.unflatten(3, (2, 4)),
    )
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_levels_may_have_different_numbers_of_points():
    """A point in the centre of a cell reads that cell, a point outside reads zero."""
    memory = torch.arange(30.0).view(1, 30, 1)  # level 0: 0..23, level 1: 24..29
    cell = torch.tensor([[5.5 / 6, 3.5 / 4], [-0.5, 0.5], [0.5 / 3, 1.5 / 2]])  # (x, y)
    weights = torch.tensor([0.5, 0.25, 0.25]).view(1, 1, 1, 3)
    out = deformable_sampling(
        split_levels(memory, 1, SHAPES), cell.view(1, 1, 1, 3, 2), weights, (2, 1)
    )
    # 0.5 * last cell of level 0 + 0.25 * nothing + 0.25 * first cell of the last row of level 1
    assert out.item() == pytest.approx(0.5 * 23 + 0.25 * 0 + 0.25 * 27)


@pytest.mark.parametrize('shapes', [((4, 6), (2, 3)), ((5, 5), (1, 1)), ((3, 7),)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_inference_on_a_cpu_sums_the_same(shapes, dtype, monkeypatch):
    points = (3, 5)[: len(shapes)]
    torch.manual_seed(0)
    memory = torch.randn(2, sum(h * w for h, w in shapes), 4 * 8)
    levels = split_levels(memory, 4, shapes)
    locations = torch.rand(2, 9, 4, sum(points), 2) * 1.6 - 0.3  # one in three outside
    locations[0, 0] = torch.tensor([[0.0, 1.0]])  # at the border
    weights = torch.rand(2, 9, 4, sum(points)).softmax(-1).to(dtype)
    expected = deformable_sampling(levels, locations, weights, points)
    calls = []
    monkeypatch.setattr(
        'deim_mmdet.ops.deformable_attention.sum_of_rows',
        lambda *args: calls.append(1) or sum_of_rows(*args),
    )
    with torch.no_grad():
        out = deformable_sampling(levels, locations, weights, points)
    assert calls and out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_a_point_that_is_not_finite_spoils_its_query_alone():
    memory, locations, weights = random_inputs((4, 4))
    locations[1, 2, 0, 3] = math.nan
    with torch.no_grad():
        out = deformable_sampling(split_levels(memory, 2, SHAPES), locations, weights, (4, 4))
    wrong = out.isnan().any(-1)
    assert wrong.sum() == 1 and wrong[1, 2]


def test_half_precision_memory_is_sampled_in_single_precision():
    memory, locations, weights = random_inputs((2, 2))
    exact = deformable_sampling(split_levels(memory, 2, SHAPES), locations, weights, (2, 2))
    half = deformable_sampling(
        split_levels(memory.bfloat16(), 2, SHAPES), locations, weights, (2, 2)
    )
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=2e-2, atol=2e-2)


def test_discrete_sampling_equals_a_loop_over_the_points():
    """On rectangles: a limit of the wrong axis would show."""
    points_per_level = (3, 2)
    memory, locations, weights = random_inputs(points_per_level)
    out = discrete_sampling(split_levels(memory, 2, SHAPES), locations, weights, points_per_level)

    tokens = memory.unflatten(-1, (2, 3))  # (bs, tokens, heads, dims)
    first_token = (0, 4 * 6)
    expected = torch.zeros(2, 5, 2, 3)
    for b, q, head, point in torch.cartesian_prod(*(torch.arange(n) for n in (2, 5, 2, 5))):
        level = 0 if point < 3 else 1
        h, w = SHAPES[level]
        x, y = locations[b, q, head, point].tolist()
        column = min(max(math.floor(x * w + 0.5), 0), w - 1)
        row = min(max(math.floor(y * h + 0.5), 0), h - 1)
        value = tokens[b, first_token[level] + row * w + column, head]
        expected[b, q, head] += weights[b, q, head, point] * value
    torch.testing.assert_close(out, expected.flatten(2), rtol=1e-5, atol=1e-5)


def test_discrete_sampling_trains_values_and_weights_and_leaves_the_points_alone():
    memory, locations, weights = (t.requires_grad_() for t in random_inputs((2, 2)))
    discrete_sampling(split_levels(memory, 2, SHAPES), locations, weights, (2, 2)).sum().backward()
    assert memory.grad.abs().sum() > 0
    assert weights.grad.abs().sum() > 0
    assert locations.grad is None
