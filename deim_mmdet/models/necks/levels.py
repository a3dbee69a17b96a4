# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Sequence, Tuple

import torch
from torch import Tensor


def check_levels(levels: Sequence[Tensor], in_channels: Tuple[int, ...]) -> None:
    """Refuse levels that a neck cannot fuse. Does nothing while the model is traced.

    Args:
        levels (Sequence[Tensor]): Finest first, each of shape (bs, channels, H, W).
        in_channels (tuple[int]): Channels that the neck was built for.

    Raises:
        ValueError: Levels of other channels, or that are not half the size of each other.
    """
    if torch.jit.is_tracing():
        return
    channels = tuple(level.shape[1] for level in levels)
    if channels != in_channels:
        raise ValueError(
            f'The neck was built for levels of {in_channels} channels and got {channels}: '
            "set the neck's `in_channels` to the backbone's output channels."
        )
    for finer, coarser in zip(levels, levels[1:]):
        if tuple(finer.shape[-2:]) != tuple(2 * side for side in coarser.shape[-2:]):
            sizes = [tuple(level.shape[-2:]) for level in levels]
            raise ValueError(
                f'Levels of sizes {sizes} are not half of each other: pad or resize images to '
                'multiples of 32 (`pad_size_divisor=32` of the data preprocessor).'
            )
