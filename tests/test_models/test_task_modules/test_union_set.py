# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from deim_mmdet.models.task_modules import SetMatches, to_device, union_of_sets

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def make_matches(rows):
    """From rows (set, image, query, object)."""
    rows = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return SetMatches(
        set_index=rows[:, 0],
        batch_index=rows[:, 1],
        query_index=rows[:, 2],
        target_index=rows[:, 3],
    )


def triples(matches):
    return list(zip(*(x.tolist() for x in (matches.batch_index, matches.query_index,
                                           matches.target_index))))  # fmt: skip


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        # nothing matched
        ([], []),
        # one set: itself
        ([(0, 0, 3, 1), (0, 0, 2, 0)], [(0, 2, 0), (0, 3, 1)]),
        # query 3 answers for object 1 twice, for object 0 once
        ([(0, 0, 3, 1), (1, 0, 3, 0), (2, 0, 3, 1)], [(0, 3, 1)]),
        # an object may keep two queries
        ([(0, 0, 3, 1), (1, 0, 5, 1)], [(0, 3, 1), (0, 5, 1)]),
        # a tie: the smaller object
        ([(0, 0, 3, 2), (1, 0, 3, 1)], [(0, 3, 1)]),
        # the same query number in two images is two queries
        ([(0, 1, 3, 4), (0, 0, 3, 1), (1, 1, 3, 5), (2, 1, 3, 5)], [(0, 3, 1), (1, 3, 5)]),
    ],
)
def test_by_hand(rows, expected):
    assert triples(union_of_sets(make_matches(rows))) == expected


def test_the_reference():
    data = np.load(FIXTURES / 'go_union.npz')
    offset = 100  # objects of image i are numbered from offset * i
    rows = [
        (s, image, query, gt + offset * image)
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
    matches = make_matches([(0, 0, 3, 2), (1, 0, 4, 1)])
    empty = make_matches([])
    union = union_of_sets(matches)
    on_device = to_device([matches, empty, union], torch.device('cpu'))
    assert [type(m) for m in on_device] == [type(m) for m in (matches, empty, union)]
    for before, after in zip((matches, empty, union), on_device):
        assert triples(before) == triples(after)
        assert after.query_index.dtype == torch.long
    assert on_device[0].set_index.tolist() == [0, 1]


def test_index_picks_the_matched_predictions():
    predictions = torch.arange(2 * 1 * 5).view(2, 1, 5)  # (S, bs, N)
    matches, union = to_device(
        [make_matches([(0, 0, 3, 2), (1, 0, 4, 1)]),
         union_of_sets(make_matches([(0, 0, 3, 2), (1, 0, 4, 1)]))],
        torch.device('cpu'),
    )  # fmt: skip
    assert predictions[matches.index].tolist() == [3, 9]  # (P,): each pair in its own set
    assert predictions[union.index].tolist() == [[3, 4], [8, 9]]  # (S, P): all pairs in every set
