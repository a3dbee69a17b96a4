# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import TASK_UTILS

from deim_mmdet.models.task_modules import BatchTargets, SetMatcher

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def load_case(name):
    """Predictions as one set, targets and, for each image, the pairs of the reference."""
    data = np.load(FIXTURES / 'matcher.npz')
    counts = data[f'{name}.counts'].tolist()
    images = range(len(counts))
    if name == 'large':
        logits = (2 * np.random.RandomState(17).randn(2, 300, 80) - 2).astype(np.float32)
    else:
        logits = data[f'{name}.pred_logits']
    targets = make_targets(
        [data[f'{name}.labels_{i}'] for i in images], [data[f'{name}.boxes_{i}'] for i in images]
    )
    assert targets.counts == counts
    bboxes = torch.tensor(data[f'{name}.pred_boxes'])
    pairs = [set(zip(data[f'{name}.query_{i}'], data[f'{name}.gt_{i}'])) for i in images]
    costs = [data.get(f'{name}.cost_{i}') for i in images]
    return torch.tensor(logits)[None], bboxes[None], targets, pairs, costs


def make_targets(labels, boxes):
    labels = [torch.as_tensor(x).long() for x in labels]
    boxes = [torch.as_tensor(x).reshape(-1, 4) for x in boxes]
    return BatchTargets.from_flat(torch.cat(labels), torch.cat(boxes), [len(x) for x in labels])


def random_case(counts, num_sets=3, num_queries=20, num_classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    cls_scores = 4 * rand(num_sets, len(counts), num_queries, num_classes) - 3
    bboxes = 0.1 + 0.5 * rand(num_sets, len(counts), num_queries, 4)
    labels = [torch.randint(num_classes, (n,), generator=g) for n in counts]
    targets = make_targets(labels, [0.1 + 0.5 * rand(n, 4) for n in counts])
    return cls_scores, bboxes, targets


def pairs_by_image(matches, targets, set_index=0):
    """For each image the set of (query, object within the image)."""
    pairs = [set() for _ in targets.counts]
    columns = (matches.batch_index, matches.query_index, matches.target_index)
    for image, query, target in zip(*(x[set_index].tolist() for x in columns)):
        assert targets.batch_index[target] == image
        pairs[image].add((query, targets.slot_index[target].item()))
    return pairs


@pytest.mark.filterwarnings('ignore:an image has 9 objects')
@pytest.mark.parametrize('name', ['all_empty', 'empty_image', 'more_gt_than_queries', 'large'])
def test_same_pairs_as_the_reference(name):
    cls_scores, bboxes, targets, pairs, _ = load_case(name)
    matches = SetMatcher()(cls_scores, bboxes, targets)
    assert pairs_by_image(matches, targets) == pairs
    assert sum(len(x) for x in pairs) == len(matches)


@pytest.mark.parametrize('name', ['all_empty', 'empty_image', 'more_gt_than_queries'])
def test_same_cost_as_the_reference(name):
    cls_scores, bboxes, targets, _, costs = load_case(name)
    found = SetMatcher().pairwise_cost(cls_scores, bboxes, targets)
    expected = torch.cat([torch.tensor(x).T for x in costs])  # (N, count) -> (T, N)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


def test_cost_by_hand():
    # p = sigmoid(0) = .5; class: .25 * .25 * ln 2 - .75 * .25 * ln 2 = -.125 ln 2 = -.0866434
    # L1: .1 + .1 = .2; GIoU: boxes .2 x .2 moved by (.1, .1) share .1 x .1: 1/7 - 2/9 = -.0793651
    cls_scores = torch.zeros(1, 1, 1, 2)
    bboxes = torch.tensor([[[[0.4, 0.4, 0.2, 0.2]]]])
    targets = make_targets([[1]], [[0.5, 0.5, 0.2, 0.2]])
    cost = lambda *weights: SetMatcher(*weights).pairwise_cost(cls_scores, bboxes, targets).item()  # noqa: E731
    assert cost(1, 0, 0) == pytest.approx(-0.0866434, abs=1e-6)
    assert cost(0, 1, 0) == pytest.approx(0.2, abs=1e-6)
    assert cost(0, 0, 1) == pytest.approx(0.0793651, abs=1e-6)
    assert cost(2, 5, 2) == pytest.approx(-0.1732868 + 1 + 0.1587302, abs=1e-5)


def test_an_image_alone_or_in_a_batch_gives_the_same_pairs():
    counts = [4, 0, 9, 1]
    cls_scores, bboxes, targets = random_case(counts)
    together = SetMatcher()(cls_scores, bboxes, targets)
    for image in range(len(counts)):
        own = targets.batch_index == image
        alone_targets = make_targets([targets.labels[own]], [targets.boxes[own]])
        part = slice(image, image + 1)
        alone = SetMatcher()(cls_scores[:, part], bboxes[:, part], alone_targets)
        for s in range(3):
            expected = pairs_by_image(together, targets, s)[image]
            assert pairs_by_image(alone, alone_targets, s) == [expected]


def test_each_set_is_matched_on_its_own():
    cls_scores, bboxes, targets = random_case([4, 7])
    together = SetMatcher()(cls_scores, bboxes, targets)
    for s in range(3):
        alone = SetMatcher()(cls_scores[s : s + 1], bboxes[s : s + 1], targets)
        assert pairs_by_image(together, targets, s) == pairs_by_image(alone, targets)


def test_every_object_has_one_query_and_no_query_two_objects():
    cls_scores, bboxes, targets = random_case([20, 3])
    matches = SetMatcher()(cls_scores, bboxes, targets)
    for s in range(3):
        assert sorted(matches.target_index[s].tolist()) == list(range(23))
        queries = matches.batch_index[s] * 20 + matches.query_index[s]
        assert len(queries.unique()) == 23


def test_no_object_at_all():
    cls_scores, bboxes, targets = random_case([0, 0])
    matches, union = SetMatcher().match_with_union(cls_scores, bboxes, targets)
    assert len(matches) == len(union) == 0
    assert matches.query_index.dtype == union.query_index.dtype == torch.long
    assert matches.gather(bboxes).shape == union.gather(bboxes).shape == (3, 0, 4)


def test_surplus_objects_get_no_query_and_one_warning():
    cls_scores, bboxes, targets = random_case([9, 2], num_queries=5)
    matcher = SetMatcher()
    with pytest.warns(UserWarning, match='9 objects but the model only 5 queries: 4 of them'):
        matches = matcher(cls_scores, bboxes, targets)
    assert len(matches) == 5 + 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        matcher(cls_scores, bboxes, targets)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('place', ['logits', 'boxes', 'objects', 'all boxes'])
def test_values_that_are_not_finite_do_not_stop_the_matching(value, place):
    cls_scores, bboxes, targets = random_case([4, 7])
    clean = SetMatcher()(cls_scores, bboxes, targets)
    if place == 'logits':
        cls_scores[0, 1] = value
    elif place == 'boxes':
        bboxes[0, 1, 3] = value
    elif place == 'objects':
        targets.boxes[-1] = value
    else:
        bboxes[:] = value
    cost = SetMatcher().pairwise_cost(cls_scores, bboxes, targets)
    assert cost.isfinite().all()
    matches = SetMatcher()(cls_scores, bboxes, targets)
    assert len(matches) == 11
    if place in ('logits', 'boxes'):
        # what is not touched by it is matched as before
        assert pairs_by_image(matches, targets)[0] == pairs_by_image(clean, targets)[0]
        assert pairs_by_image(matches, targets, 2) == pairs_by_image(clean, targets, 2)


def test_a_pair_that_is_not_a_number_costs_one():
    cls_scores, bboxes, targets = random_case([2], num_sets=1)
    bboxes[0, 0, 3] = float('nan')
    cost = SetMatcher().pairwise_cost(cls_scores, bboxes, targets)
    assert cost[0, :, 3].tolist() == [1, 1]
    assert (cost[0] == 1).sum() == 2


def test_copies_to_and_from_the_host(monkeypatch):
    """One copy of the costs to the host, one of all indices back."""
    calls = []
    real_cpu, real_to = torch.Tensor.cpu, torch.Tensor.to

    def count(name, real):
        return lambda self, *a, **k: calls.append((name, tuple(self.shape))) or real(self, *a, **k)

    def refuse(*_):
        raise AssertionError('synchronises with the device')

    cls_scores, bboxes, targets = random_case([4, 0, 7])
    monkeypatch.setattr(torch.Tensor, 'cpu', count('cpu', real_cpu))
    monkeypatch.setattr(torch.Tensor, 'to', count('to', real_to))
    for name in ('item', 'tolist', '__bool__', '__int__', 'nonzero'):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    matches, union = SetMatcher().match_with_union(cls_scores, bboxes, targets)
    size = 3 * (3 * len(matches) + len(union))
    assert calls == [('cpu', (3, 11, 20)), ('to', (size,))]


def test_half_precision_predictions():
    cls_scores, bboxes, targets = random_case([4, 7])
    low = SetMatcher().pairwise_cost(cls_scores.bfloat16(), bboxes.bfloat16(), targets)
    assert low.dtype == torch.float32
    exact = SetMatcher().pairwise_cost(
        cls_scores.bfloat16().float(), bboxes.bfloat16().float(), targets
    )
    torch.testing.assert_close(low, exact)


def test_registered():
    matcher = TASK_UTILS.build(dict(type='SetMatcher', cost_class=1.0))
    assert (matcher.cost_class, matcher.cost_bbox, matcher.cost_giou) == (1, 5, 2)
    with pytest.raises(ValueError, match='all matching costs are 0'):
        SetMatcher(0, 0, 0)
