# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from typing import List, Tuple, Union

import numpy as np
import torch
from torch import Tensor

IndexArray = Union[np.ndarray, Tensor]


@dataclass(frozen=True)
class Matches:
    """Which query answers for which object: P pairs, the same number in every prediction set.

    Pair p joins query ``query_index[..., p]`` of image ``batch_index[..., p]`` with object
    ``target_index[..., p]`` of :class:`BatchTargets`. Index arrays of shape (S, P) state the pairs
    of each prediction set, those of shape (P,) pairs that hold in all sets. They are NumPy arrays
    while the matching is worked out on the host, and tensors once :func:`to_device` has carried
    them over.

    Args:
        batch_index (Tensor): Image of each pair, shape (S, P) or (P,), long.
        query_index (Tensor): Query of each pair within its image, same shape, long.
        target_index (Tensor): Object of each pair in the flat targets, same shape, long.
    """

    batch_index: IndexArray
    query_index: IndexArray
    target_index: IndexArray

    def __len__(self) -> int:
        """P, the number of pairs of a set; known on the host."""
        return self.query_index.shape[-1]

    def index(self, num_sets: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Indices of the matched predictions in a stack of sets.

        Args:
            num_sets (int): S, the number of sets in the stack.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Set, image and query; together they broadcast to (S, P).
        """
        sets = torch.arange(num_sets, device=self.query_index.device)
        return sets[:, None], self.batch_index, self.query_index

    def gather(self, predictions: Tensor) -> Tensor:
        """Pick the matched predictions.

        Args:
            predictions (Tensor): Stacked sets, shape (S, bs, N, ...).

        Returns:
            Tensor: Shape (S, P, ...).
        """
        return predictions[self.index(len(predictions))]


def to_device(matches: List[Matches], device: torch.device) -> Tuple[Matches, ...]:
    """Carry any number of matches from the host to the device in one copy.

    Args:
        matches (list[Matches]): With NumPy arrays.
        device (torch.device): Where they are needed.

    Returns:
        tuple[Matches, ...]: The same, in the same order, with long tensors (views of one buffer).
    """
    arrays = [a for m in matches for a in (m.batch_index, m.query_index, m.target_index)]
    buffer = np.concatenate([a.ravel() for a in arrays]).astype(np.int64, copy=False)
    parts = torch.from_numpy(buffer).to(device).split([a.size for a in arrays])
    tensors = [part.view(a.shape) for part, a in zip(parts, arrays)]
    return tuple(Matches(*tensors[i : i + 3]) for i in range(0, len(tensors), 3))
