# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np

from .matches import Matches


def union_of_sets(matches: Matches) -> Matches:
    """One matching for all prediction sets: the union set of GO-LSD.

    The pairs of all sets are pooled and each query keeps the object it was matched to most often.
    An object may keep several queries, a query has at most one object.

    Differs from the `published implementation <https://arxiv.org/abs/2410.13842>`_: where a query
    was matched to two objects equally often, that one leaves the choice to an unstable sort; here
    the object that comes first in the targets wins.

    Args:
        matches (Matches): With NumPy arrays of any shape; the order of the pairs is of no account.

    Returns:
        Matches: With NumPy arrays, shape (P,), ordered by image, then query.
    """
    pairs = np.stack((matches.batch_index, matches.query_index, matches.target_index))
    pairs = pairs.reshape(3, -1)  # of all sets
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)
    # the most frequent object of each query first; np.unique has ordered the objects among equals
    pairs = pairs[:, np.lexsort((-counts, pairs[1], pairs[0]))]
    is_first = np.ones(pairs.shape[1], dtype=bool)
    is_first[1:] = (pairs[:2, 1:] != pairs[:2, :-1]).any(axis=0)
    return Matches(*pairs[:, is_first])
