# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..layers.conv import FrozenBatchNorm2d


class StagedBackbone(BaseModule):
    """A stem and a row of stages: which of them are returned, and which are frozen.

    A subclass builds its modules, names them in ``stem_and_stages`` and then calls ``finish``.

    Args:
        init_cfg (dict, optional): Initialisation. Defaults to None: PyTorch's.

    Attributes:
        out_channels (tuple[int]): Channels of the returned levels.
        out_strides (tuple[int]): Strides of the returned levels.
    """

    def __init__(self, init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.frozen_stages = -1

    def stem_and_stages(self) -> Sequence[nn.Module]:
        """The stem, then every stage, in the order they run."""
        raise NotImplementedError

    def finish(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int,
        freeze_norm: bool,
    ) -> None:
        """Choose the levels to return and freeze what is to be frozen.

        Args:
            channels (Sequence[int]): Output channels of every stage.
            strides (Sequence[int]): Output stride of every stage.
            out_indices (Sequence[int]): Stages whose output is returned.
            frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and the first n
                stages.
            freeze_norm (bool): Make every batch norm a :class:`FrozenBatchNorm2d`.
        """
        self.out_indices = tuple(out_indices)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        self.frozen_stages = frozen_stages
        if freeze_norm:
            FrozenBatchNorm2d.replace_in(self)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Features of the chosen stages.

        Args:
            x (Tensor): Images, shape (bs, in_channels, H, W), H and W multiples of the largest
                stride.

        Returns:
            tuple[Tensor]: One level per entry of ``out_indices``, shape (bs, out_channels[i],
            H / out_strides[i], W / out_strides[i]).
        """
        stem, *stages = self.stem_and_stages()
        x = stem(x)
        levels = []
        for index, stage in enumerate(stages):
            x = stage(x)
            if index in self.out_indices:
                levels.append(x)
        return tuple(levels)

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> Sequence[nn.Module]:
        return self.stem_and_stages()[: self.frozen_stages + 1]


def run_blocks(blocks: Sequence[nn.Module], x: Tensor, with_cp: bool) -> Tensor:
    """Run blocks one after the other.

    Args:
        blocks (Sequence[nn.Module]): The blocks.
        x (Tensor): Input of the first.
        with_cp (bool): Recompute each in the backward pass, which saves memory and costs time.

    Returns:
        Tensor: Output of the last.
    """
    for block in blocks:
        if with_cp and x.requires_grad:
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


def check_stages(num_stages: int, out_indices: Sequence[int], frozen_stages: int) -> None:
    """Refuse stages that there are not.

    Raises:
        ValueError: ``out_indices`` empty, out of range or not rising; ``frozen_stages`` out of
            range.
    """
    allowed = range(num_stages)
    if not out_indices or any(index not in allowed for index in out_indices):
        raise ValueError(
            f'out_indices = {tuple(out_indices)} must name stages 0 to {num_stages - 1} of this '
            'size.'
        )
    if list(out_indices) != sorted(set(out_indices)):
        raise ValueError(f'out_indices = {tuple(out_indices)} must rise, finest level first.')
    if not -1 <= frozen_stages <= num_stages:
        raise ValueError(
            f'frozen_stages = {frozen_stages} must be -1 (nothing), 0 (stem), or at most '
            f'{num_stages} (stem and all stages).'
        )
