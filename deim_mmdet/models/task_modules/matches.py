# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Which query answers for which object, as flat index arrays.

Pair p joins query ``query_index[p]`` of image ``batch_index[p]`` with object ``target_index[p]`` of
:class:`BatchTargets`. The arrays are NumPy arrays while the matching is worked out on the host and
tensors once :func:`to_device` has carried them over.
"""

from dataclasses import dataclass, fields
from typing import List, Tuple, Union

import numpy as np
import torch
from torch import Tensor

IndexArray = Union[np.ndarray, Tensor]


@dataclass(frozen=True)
class Matches:
    """Pairs that hold in every prediction set alike.

    Args:
        batch_index (Tensor): Image of each pair, shape (P,), long.
        query_index (Tensor): Query of each pair within its image, shape (P,), long.
        target_index (Tensor): Object of each pair in the flat targets, shape (P,), long.
    """

    batch_index: IndexArray
    query_index: IndexArray
    target_index: IndexArray

    def __len__(self) -> int:
        """Number of pairs P; known on the host."""
        return len(self.query_index)

    @property
    def index(self) -> tuple:
        """What picks the matched predictions: (S, bs, N, ...)[index] -> (S, P, ...)."""
        return slice(None), self.batch_index, self.query_index


@dataclass(frozen=True)
class SetMatches(Matches):
    """Pairs of which each holds in one prediction set.

    Args:
        set_index (Tensor): Prediction set of each pair, shape (P,), long, ascending.
    """

    set_index: IndexArray

    @property
    def index(self) -> tuple:
        """What picks the matched predictions: (S, bs, N, ...)[index] -> (P, ...)."""
        return self.set_index, self.batch_index, self.query_index


def to_device(matches: List[Matches], device: torch.device) -> Tuple[Matches, ...]:
    """Carry any number of matches from the host to the device in one copy.

    Args:
        matches (list[Matches]): With NumPy arrays.
        device (torch.device): Where they are needed.

    Returns:
        tuple[Matches, ...]: The same, in the same order, with long tensors (views of one buffer).
    """
    arrays = [getattr(m, field.name) for m in matches for field in fields(m)]
    buffer = torch.from_numpy(np.concatenate(arrays).astype(np.int64, copy=False)).to(device)
    parts = iter(buffer.split([len(array) for array in arrays]))
    return tuple(type(m)(**{field.name: next(parts) for field in fields(m)}) for m in matches)
