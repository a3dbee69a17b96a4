# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from deim_mmdet.models.task_modules import BatchTargets, DenoisingQueryGenerator
from tests.fixtures import fill

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def make_targets(counts, num_classes=80):
    objects = fill.targets(counts, num_classes)
    return BatchTargets.from_flat(
        torch.from_numpy(np.concatenate([x['labels'] for x in objects])),
        torch.from_numpy(np.concatenate([x['boxes'] for x in objects])),
        counts,
    )


def without_noise(num_classes=80, embed_dims=16, **kwargs):
    return DenoisingQueryGenerator(
        num_classes, embed_dims, label_noise=0.0, box_noise=0.0, **kwargs
    )


@pytest.mark.parametrize('name', ['dn_detr_r50', 'dn_deformable_detr_r50'])
def test_the_reference(name):
    """Pad size, mask, indices, contents and boxes of the published implementation."""
    golden = np.load(FIXTURES / f'{name}.npz')
    counts, num_groups = golden['dn_counts'].tolist(), int(golden['dn_groups'])
    table = fill.tensor_for('label_enc.weight', (92, 255))
    generator = without_noise(91, 256, num_groups=num_groups)
    generator.load_state_dict({'label_embedding.weight': torch.from_numpy(table)})

    queries = generator(make_targets(counts, 91), num_queries=300)
    assert queries.num_groups == num_groups
    assert queries.content.shape[1] == int(golden['dn_pad_size']) == num_groups * max(counts)
    assert torch.equal(queries.attn_mask, torch.from_numpy(golden['dn_attn_mask']))
    assert queries.matches.query_index.tolist() == golden['dn_map_known_indice'].tolist()
    assert queries.matches.target_index.tolist() == golden['dn_known_indice'].tolist()
    assert queries.matches.batch_index.tolist() == golden['dn_batch_idx'].tolist() * num_groups
    np.testing.assert_array_equal(queries.content.detach(), golden['dn_query_label'])
    np.testing.assert_allclose(queries.references, golden['dn_query_bbox'], rtol=0, atol=1e-6)
    if name == 'dn_detr_r50':  # the deformable model learns the contents of normal queries
        content = generator.normal_content().detach()
        np.testing.assert_array_equal(content, golden['match_query_label_row0'])


@pytest.mark.parametrize('counts', [[0, 0], [0, 3], [3, 5, 0], [100]])
def test_layout(counts):
    targets, generator = make_targets(counts), without_noise()
    queries = generator(targets, num_queries=30)
    num_denoising = 5 * max(counts)
    assert queries.num_groups == 5
    assert queries.content.shape == (len(counts), num_denoising, 16)
    assert queries.references.shape == (len(counts), num_denoising, 4)
    assert queries.attn_mask.shape == (num_denoising + 30,) * 2
    matches = queries.matches
    assert len(matches) == 5 * sum(counts)

    where = matches.batch_index, matches.query_index
    labels = generator.label_embedding(targets.labels[matches.target_index])
    assert torch.equal(queries.content[where][:, :-1], labels)
    boxes = queries.references[where].sigmoid()
    torch.testing.assert_close(boxes, targets.boxes[matches.target_index])
    # the last dimension is 1 for the objects; slots without an object hold zeros, box 0.5
    is_object = torch.zeros(queries.content.shape[:2], dtype=torch.bool)
    is_object[where] = True
    assert torch.equal(queries.content[..., -1], is_object.float())
    assert (queries.content[~is_object] == 0).all() and (queries.references[~is_object] == 0).all()
    assert (generator.normal_content()[-1], len(generator.normal_content())) == (0, 16)


@pytest.mark.parametrize('label_noise', [0, 0.2, 1])
def test_labels_are_replaced_at_the_rate_of_the_noise(label_noise):
    generator = DenoisingQueryGenerator(50, 4, label_noise=label_noise)
    labels = torch.full((20_000,), 3)
    noisy = generator.add_label_noise(labels, torch.Generator().manual_seed(0))
    # the 50th part of the replaced labels draws the same again; four sigma of 20,000 draws
    rate = label_noise * 49 / 50
    sigma = math.sqrt(rate * (1 - rate) / 20_000)
    assert abs((noisy != 3).float().mean() - rate) <= 4 * sigma
    assert 0 <= noisy.min() and noisy.max() < 50 and (labels == 3).all()
    if label_noise == 1:  # each class is as frequent as any other: 400 draws, sigma 20
        assert (noisy.bincount(minlength=50) - 400).abs().max() < 5 * 20


@pytest.mark.parametrize('box_noise', [0, 0.4, 1])
def test_boxes_stay_inside_the_bounds_of_the_noise(box_noise):
    boxes = torch.tensor([0.5, 0.45, 0.2, 0.4]).repeat(20_000, 1)
    generator = DenoisingQueryGenerator(80, 4, box_noise=box_noise)
    shift = generator.add_box_noise(boxes, torch.Generator().manual_seed(0)) - boxes
    # half the size for the centre, the size for the size
    bound = box_noise * torch.tensor([0.1, 0.2, 0.2, 0.4])
    assert (shift.abs() <= bound + 1e-6).all()
    # uniform within: mean 0 and deviation bound / sqrt(3), each to four sigma of 20,000 draws
    assert (shift.mean(0).abs() <= 4 * bound / math.sqrt(3 * 20_000) + 1e-7).all()
    deviation = shift.std(0)
    assert ((deviation - bound / math.sqrt(3)).abs() <= 4 * 0.26 * bound / math.sqrt(20_000)).all()
    # the four numbers of a box are drawn apart
    if box_noise:
        assert (torch.corrcoef(shift.T) - torch.eye(4)).abs().max() < 4 / math.sqrt(20_000)


def test_boxes_are_clipped_to_the_image():
    boxes = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.02, 0.98, 0.04, 0.04]]).repeat(500, 1)
    noisy = DenoisingQueryGenerator(80, 4, box_noise=1.0).add_box_noise(boxes)
    assert noisy.min() == 0 and noisy.max() == 1


def test_box_at_the_border_has_finite_logits():
    targets = BatchTargets.from_flat(torch.tensor([1]), torch.tensor([[0.5, 0.0, 1, 0.5]]), [1])
    references = without_noise(num_groups=1)(targets, 3).references
    # log(1 / 0.001)
    expected = torch.tensor([[[0, -math.log(1000), math.log(1000), 0]]])
    torch.testing.assert_close(references, expected, atol=1e-5, rtol=0)


def test_a_generator_decides_the_noise():
    targets = make_targets([3, 5])
    before = targets.boxes.clone(), targets.labels.clone()
    denoising = DenoisingQueryGenerator(80, 8)

    def draw(seed):
        return denoising(targets, 10, torch.Generator().manual_seed(seed))

    first, same, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.references, same.references)
    assert torch.equal(first.content, same.content)
    assert not torch.equal(first.references, other.references)
    assert not torch.equal(denoising(targets, 10).references, denoising(targets, 10).references)
    assert torch.equal(targets.boxes, before[0]) and torch.equal(targets.labels, before[1])


@pytest.mark.parametrize('counts', [[0, 0], [0, 2]])
def test_gradient_reaches_the_table_whatever_the_batch_holds(counts):
    denoising = without_noise(num_classes=80)
    queries = denoising(make_targets(counts), num_queries=5)
    queries.content.square().sum().backward()
    grad = denoising.label_embedding.weight.grad
    assert grad is not None and (grad.abs().sum() > 0) == (sum(counts) > 0)


@pytest.mark.parametrize(
    ('count', 'max_queries', 'groups'),
    [
        (0, 1, 5),
        (100, 500, 5),
        (101, 500, 4),
        (250, 500, 2),
        (501, 500, 1),  # one group is always made
    ],
)
def test_groups_are_bounded_with_one_warning(count, max_queries, groups):
    denoising = DenoisingQueryGenerator(80, 4, max_queries=max_queries)
    targets = make_targets([count, 1 if count else 0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        queries = [denoising(targets, 7) for _ in range(2)][-1]
    assert queries.num_groups == groups
    assert queries.content.shape[1] == groups * count
    assert len(queries.matches) == groups * sum(targets.counts)
    messages = [str(warning.message) for warning in caught]
    expected = [
        f'5 denoising groups of {count} objects are more than max_queries=500: batches like this '
        f'one get {groups}. Raise max_queries in denoising=dict(...) if memory allows, or lower '
        'num_groups.'
    ]
    assert messages == (expected if groups < 5 else [])


@pytest.mark.parametrize(
    ('wrong', 'match'),
    [
        (dict(label_noise=1.1), r'label_noise must be in \[0, 1\], got 1.1; 0 switches'),
        (dict(box_noise=-0.1), r'box_noise must be in \[0, 1\], got -0.1; 0 switches'),
        (dict(num_groups=0), 'num_groups must be at least 1, got 0; set denoising=None'),
        (dict(max_queries=0), 'max_queries must be at least 1, got 0; set denoising=None'),
    ],
)
def test_refuses(wrong, match):
    with pytest.raises(ValueError, match=match):
        MODELS.build(dict(type='DenoisingQueryGenerator', num_classes=3, embed_dims=8, **wrong))
