# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.task_modules import BatchTargets, ContrastiveDenoising
from deim_mmdet.models.task_modules.contrastive_denoising import group_mask, negative_slots
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def make_targets(counts, num_classes=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (sum(counts),), generator=g)
    boxes = torch.rand(sum(counts), 4, generator=g) * 0.3 + 0.3  # within the image
    return BatchTargets.from_flat(labels, boxes, counts)


def constant_noise(monkeypatch, uniform, integer):
    def constant(value):
        return lambda x, *_, dtype=None, **__: torch.full_like(x, value, dtype=dtype)

    monkeypatch.setattr(torch, 'rand_like', constant(uniform))
    monkeypatch.setattr(torch, 'randint_like', constant(integer))


def test_label_embedding_has_a_padding_row_of_zeros():
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(num_classes=80, embed_dims=64)
    weight = denoising.label_embedding.weight
    assert weight.shape == (81, 64)
    assert weight[80].abs().max() == 0
    assert weight[:80].mean().abs() < 0.05 and (weight[:80].std() - 1).abs() < 0.05


@pytest.mark.parametrize('counts', [[0, 0], [0, 3], [3, 5, 0], [60, 120], [100], [101]])
def test_layout(counts):
    targets = make_targets(counts)
    denoising = ContrastiveDenoising(80, 16, label_noise=0.0, box_noise=0.0)
    queries = denoising(targets, num_queries=30)
    most = max(counts)
    groups = max(1, 100 // most) if most else 1
    num_denoising = groups * 2 * most
    assert queries.num_groups == groups
    assert queries.content.shape == (len(counts), num_denoising, 16)
    assert queries.references.shape == (len(counts), num_denoising, 4)
    assert queries.attn_mask.shape == (num_denoising + 30,) * 2
    assert len(queries.matches) == groups * sum(counts)

    # without noise a positive query is its object
    m = queries.matches
    content = queries.content[m.batch_index, m.query_index]
    torch.testing.assert_close(content, denoising.label_embedding(targets.labels[m.target_index]))
    boxes = queries.references[m.batch_index, m.query_index].sigmoid()
    torch.testing.assert_close(boxes, targets.boxes[m.target_index])
    assert (m.batch_index == targets.batch_index[m.target_index]).all()
    # no query twice, none of them negative
    assert len(set(zip(m.batch_index.tolist(), m.query_index.tolist()))) == len(m)
    assert not negative_slots(groups, most, torch.device('cpu'))[m.query_index].any()


def test_group_mask_by_hand():
    # two groups of two, then one normal query
    mask = group_mask(2, 2, 1, torch.device('cpu'))
    expected = [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
    ]
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == expected
    assert not group_mask(1, 0, 4, torch.device('cpu')).any()


def test_labels_are_replaced_half_as_often_as_the_noise_says():
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(1000, 4, label_noise=0.5)
    labels = torch.full((100, 200), 3)
    labels[:, 150:] = 1000
    noisy = denoising.add_label_noise(labels)
    share = (noisy[:, :150] != 3).float().mean().item()
    # 15000 draws with p = .25 (less the thousandth that draws a 3): three sigma are .0106
    assert share == pytest.approx(0.25, abs=0.0106)
    assert noisy[:, :150].min() >= 0 and noisy[:, :150].max() < 1000
    assert (noisy[:, 150:] == 1000).all()
    assert (labels[:, :150] == 3).all()


def test_box_noise_stays_in_its_range():
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(80, 4, box_noise=0.5)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(1, 4000, 4)
    is_negative = torch.arange(4000) >= 2000
    noisy = denoising.add_box_noise(boxes, is_negative)
    x1, x2 = noisy[0, :, 0] - noisy[0, :, 2] / 2, noisy[0, :, 0] + noisy[0, :, 2] / 2
    # half the width is .1: a side moves less than .05, that of a negative between .05 and .1
    for side, start in ((x1, 0.4), (x2, 0.6)):
        shift = (side - start).abs()
        assert shift[:2000].max() <= 0.05 + 1e-6 and shift[:2000].max() > 0.045
        assert shift[2000:].min() >= 0.05 - 1e-6 and shift[2000:].max() <= 0.1 + 1e-6
        assert 0.4 < (side > start).float().mean() < 0.6  # both directions


def test_boxes_stay_boxes_within_the_image():
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(80, 4, box_noise=2.0)
    noisy = denoising.add_box_noise(torch.rand(3, 500, 4), torch.arange(500) >= 250)
    low, high = noisy[..., :2] - noisy[..., 2:] / 2, noisy[..., :2] + noisy[..., 2:] / 2
    assert low.min() >= -1e-6 and high.max() <= 1 + 1e-6
    assert noisy[..., 2:].min() >= 0


@pytest.mark.parametrize('case', ['keep_plus', 'flip_minus', 'one_group', 'other_number'])
def test_the_reference(case, monkeypatch):
    data = np.load(FIXTURES / 'cdn.npz')
    data = {k[len(case) + 1 :]: data[k] for k in data if k.startswith(f'{case}.')}
    counts = data['counts'].tolist()
    objects = fill.targets(counts, seed=77)
    targets = BatchTargets.from_flat(
        torch.tensor(np.concatenate([x['labels'] for x in objects])),
        torch.tensor(np.concatenate([x['boxes'] for x in objects])),
        counts,
    )
    constant_noise(monkeypatch, float(data['rand']), int(data['randint']))
    denoising = ContrastiveDenoising(80, 8, num_queries=int(data['num_denoising']))
    queries = denoising(targets, num_queries=int(data['num_split'][1]))

    assert queries.num_groups == int(data['num_group'])
    assert queries.references.shape[1] == int(data['num_split'][0])
    assert torch.equal(queries.attn_mask, torch.tensor(data['attn_mask']))
    for i in range(len(counts)):
        positives = queries.matches.query_index[queries.matches.batch_index == i]
        assert sorted(positives.tolist()) == data[f'positive_idx_{i}'].tolist()
    labels = torch.tensor(data['query_class']).long()
    torch.testing.assert_close(queries.content, denoising.label_embedding(labels))
    references = torch.tensor(data['query_bbox_unact'])
    torch.testing.assert_close(queries.references, references, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('counts', [[0, 0], [0, 2]])
def test_gradient_reaches_the_embedding_whatever_the_batch_holds(counts):
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(80, 16)
    normal = torch.rand(2, 5, 16, requires_grad=True)
    queries = denoising(make_targets(counts), num_queries=5)
    torch.cat((queries.content, normal), dim=1).square().sum().backward()
    grad = denoising.label_embedding.weight.grad
    assert grad is not None
    assert (grad.abs().sum() > 0) == (sum(counts) > 0)
    assert grad[80].abs().max() == 0  # padding is not learnt
    assert queries.references.isfinite().all()


def test_noise_differs_from_call_to_call_and_targets_stay():
    torch.manual_seed(0)
    targets = make_targets([3, 5])
    before = targets.boxes.clone(), targets.labels.clone()
    denoising = ContrastiveDenoising(80, 4)
    first, second = denoising(targets, 10), denoising(targets, 10)
    assert not torch.equal(first.references, second.references)
    assert torch.equal(targets.boxes, before[0]) and torch.equal(targets.labels, before[1])


def test_box_at_the_border_has_finite_logits():
    targets = BatchTargets.from_flat(torch.tensor([1]), torch.tensor([[0.5, 0.5, 1, 1]]), [1])
    queries = ContrastiveDenoising(80, 4, box_noise=0.0)(targets, 3)
    # logit(1 - 1e-5) = log((1 - 1e-5) / 1e-5)
    limit = math.log((1 - 1e-5) / 1e-5)
    assert queries.references[0, 0].tolist() == pytest.approx([0, 0, limit, limit], abs=1e-2)


def test_registered_and_refuses():
    config = dict(type='ContrastiveDenoising', num_classes=3, embed_dims=8)
    assert MODELS.build(config).num_queries == 100
    for wrong, match in [
        (dict(num_queries=0), 'denoising=None'),
        (dict(label_noise=3), r'label_noise must be in \[0, 2\], got 3'),
        (dict(box_noise=-1), 'box_noise must be at least 0'),
    ]:
        with pytest.raises(ValueError, match=match):
            MODELS.build(dict(config, **wrong))
