# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The four stages of Dense O2O training, and the value that worker processes read."""

from enum import IntEnum
from typing import Sequence

import torch


class DenseO2OStage(IntEnum):
    """What happens to an image in the four stages of Dense O2O (DEIM, arXiv 2412.04234).

    1. ``PLAIN_START``: neither mosaic nor photometric distortion, zooming out or IoU crop.
    2. ``MOSAIC``: a mosaic with photometric distortion, or the three classic ones.
    3. ``CLASSIC``: photometric distortion, zooming out and IoU crop; no mosaic.
    4. ``PLAIN_END``: as in the first stage.
    """

    PLAIN_START = 1
    MOSAIC = 2
    CLASSIC = 3
    PLAIN_END = 4


def check_epochs(epochs: Sequence[int], name: str, length: int) -> tuple:
    """Returns ``epochs`` as a tuple, or raises ValueError if they are not 0-based and ascending."""
    values = tuple(epochs)
    ascending = all(a <= b for a, b in zip(values, values[1:]))
    if len(values) != length or not ascending or any(int(v) != v or v < 0 for v in values):
        raise ValueError(
            f'{name} must be {length} ascending 0-based epochs, such as '
            f'{(4, 29, 50)[:length]}, but got {epochs!r}'
        )
    return tuple(int(v) for v in values)


def dense_o2o_stage(epoch: int, stages: Sequence[int]) -> DenseO2OStage:
    """The stage of an epoch.

    Args:
        epoch (int): Epoch, counted from 0.
        stages (Sequence[int]): (e0, e1, e2), the first epochs of the stages ``MOSAIC``,
            ``CLASSIC`` and ``PLAIN_END``. Equal neighbours leave a stage out: (0, 0, e2) is the
            schedule of D-FINE and RT-DETRv2.

    Returns:
        DenseO2OStage: The stage.

    Raises:
        ValueError: If ``stages`` is not three ascending epochs.
    """
    mosaic_begin, classic_begin, plain_begin = check_epochs(stages, 'stages', 3)
    if epoch >= plain_begin:
        return DenseO2OStage.PLAIN_END
    if epoch >= classic_begin:
        return DenseO2OStage.CLASSIC
    if epoch >= mosaic_begin:
        return DenseO2OStage.MOSAIC
    return DenseO2OStage.PLAIN_START


class SharedStage:
    """A stage in shared memory: what the training process sets, its data workers read.

    It reaches workers that are forked and workers that are spawned, and workers that live longer
    than an epoch. A copy (``copy.deepcopy``) has a stage of its own, shared with its own workers.
    """

    def __init__(self, stage: DenseO2OStage):
        self._value = torch.tensor([int(stage)]).share_memory_()

    def get(self) -> DenseO2OStage:
        return DenseO2OStage(int(self._value[0]))

    def set(self, stage: DenseO2OStage) -> None:
        self._value[0] = int(DenseO2OStage(stage))

    def __deepcopy__(self, memo):
        return type(self)(self.get())
