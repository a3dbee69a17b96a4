# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from deim_mmdet.models.task_modules import Matches, to_device, union_of_sets

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def make_matches(rows):
    """From rows (image, query, object)."""
    return Matches(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)


def triples(matches):
    return list(zip(*(x.tolist() for x in (matches.batch_index, matches.query_index,
                                           matches.target_index))))  # fmt: skip


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        # nothing matched
        ([], []),
        # no pair twice: all of them
        ([(0, 3, 1), (0, 2, 0)], [(0, 2, 0), (0, 3, 1)]),
        # query 3 answers for object 1 twice, for object 0 once
        ([(0, 3, 1), (0, 3, 0), (0, 3, 1)], [(0, 3, 1)]),
        # an object may keep two queries
        ([(0, 3, 1), (0, 5, 1)], [(0, 3, 1), (0, 5, 1)]),
        # a tie: the smaller object
        ([(0, 3, 2), (0, 3, 1)], [(0, 3, 1)]),
        # the same query number in two images is two queries
        ([(1, 3, 4), (0, 3, 1), (1, 3, 5), (1, 3, 5)], [(0, 3, 1), (1, 3, 5)]),
    ],
)
def test_by_hand(rows, expected):
    assert triples(union_of_sets(make_matches(rows))) == expected


def test_the_reference():
    data = np.load(FIXTURES / 'go_union.npz')
    offset = 100  # objects of image i are numbered from offset * i
    rows = [
        (image, query, gt + offset * image)
        for s in range(int(data['num_layers']))
        for image in range(3)
        for query, gt in zip(data[f'layer{s}.query_{image}'], data[f'layer{s}.gt_{image}'])
    ]
    expected = {
        (image, query, gt + offset * image)
        for image in range(3)
        for query, gt in zip(data[f'stable.query_{image}'], data[f'stable.gt_{image}'])
    }
    found = triples(union_of_sets(make_matches(rows)))
    assert len(found) == len(expected) == 24
    assert set(found) == expected
    # the order of the pairs is of no account
    shuffled = [rows[i] for i in np.random.RandomState(0).permutation(len(rows))]
    assert triples(union_of_sets(make_matches(shuffled))) == found


def test_to_device_carries_several_matches():
    of_sets = Matches(*np.arange(18).reshape(3, 2, 3))  # two sets of three pairs
    every = [of_sets, make_matches([]), union_of_sets(of_sets)]
    for before, after in zip(every, to_device(every, torch.device('cpu'))):
        for name in ('batch_index', 'query_index', 'target_index'):
            assert getattr(after, name).dtype == torch.long
            np.testing.assert_array_equal(getattr(after, name).numpy(), getattr(before, name))
        assert len(after) == len(before)


def test_gather_picks_the_matched_predictions():
    predictions = torch.arange(2 * 2 * 5).view(2, 2, 5)  # (S, bs, N)
    zero = torch.zeros(2, dtype=torch.long)
    in_all_sets = Matches(torch.tensor([0, 1]), torch.tensor([3, 4]), zero)
    assert in_all_sets.gather(predictions).tolist() == [[3, 9], [13, 19]]
    by_set = Matches(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[3, 4], [0, 1]]), zero)
    assert by_set.gather(predictions).tolist() == [[3, 9], [10, 16]]
    assert by_set.gather(predictions[..., None].expand(2, 2, 5, 7)).shape == (2, 2, 7)
