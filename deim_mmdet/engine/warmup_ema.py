# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import Optional

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseAveragedModel
from torch import nn


def warmup_decay(update: int, decay: float, warmup: float) -> float:
    """Decay of an update: ``decay * (1 - exp(-update / warmup))``.

    Args:
        update (int): Number of the update, counted from 1.
        decay (float): Decay that is approached.
        warmup (float): Number of updates after which 63 % of it are reached; 0 for all at once.

    Returns:
        float: Share of the average that is kept.
    """
    return decay * (1 - math.exp(-update / warmup)) if warmup > 0 else decay


@MODELS.register_module()
class WarmupEMA(BaseAveragedModel):
    """Moving average of a model whose decay warms up exponentially.

    Averages every floating point entry of the state: parameters and the statistics of batch norm.
    Whole numbers keep the value they began with, and what is not part of the state (cached
    positions, say) is left to each model.

    The curve is that of mmdet's ``ExpMomentumEMA(momentum=1 - decay, gamma=warmup)``. Differs from
    it: the first update averages instead of copying, all tensors are updated in one call, the decay
    may change on the way and is part of the state, and constants fit the run (:meth:`fit_to_run`).

    Use it through ``WarmupEMAHook``.

    Source: DEIM and D-FINE as published.

    Args:
        model (nn.Module): The model to average.
        decay (float): Decay that is approached. Defaults to 0.9999.
        warmup (float): Constant of the warm-up in updates. Defaults to 1000 (RT-DETRv2: 2000).
        max_window_share (float): Largest share of the run that ``1 / (1 - decay)`` updates, the
            window of the average, may be. Defaults to 1 / 8.
        max_warmup_share (float): Largest share of the run that ``warmup`` may be.
            Defaults to 1 / 20.
        device (torch.device, optional): Where the average is kept. By default with the model.

    Attributes:
        decay (float): Decay that is approached, in a run of full length.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9999,
        warmup: float = 1000,
        max_window_share: float = 1 / 8,
        max_warmup_share: float = 1 / 20,
        device: Optional[torch.device] = None,
    ):
        super().__init__(model, device=device, update_buffers=True)
        if not 0 <= decay < 1 or warmup < 0:
            raise ValueError(
                f'WarmupEMA needs 0 <= decay < 1 and warmup >= 0, but got decay={decay}, '
                f'warmup={warmup}'
            )
        if not 0 < max_window_share <= 1 or not 0 < max_warmup_share <= 1:
            raise ValueError(
                'WarmupEMA needs shares of the run in (0, 1], but got '
                f'max_window_share={max_window_share}, max_warmup_share={max_warmup_share}'
            )
        # counted on the host: reading it must not wait for the device
        self.steps = self.steps.cpu()
        self.decay = self._published_decay = decay
        self.warmup = warmup
        self.max_window_share = max_window_share
        self.max_warmup_share = max_warmup_share
        self._speed = 1.0
        self._pairs = None  # (averages, sources), collected once: walking a model takes longer

    def fit_to_run(self, num_updates: int) -> None:
        """Shortens window and warm-up for a run that is short against them.

        With the defaults the published constants stay as they are from 80,000 updates on. In a
        shorter run the average forgets ``k`` times as fast, ``1 - (1 - decay) * k``, which is also
        how the published constants scale with the batch; a later change of :attr:`decay` scales
        with it.

        Args:
            num_updates (int): Length of the run.
        """
        window = 1 / (1 - self._published_decay)
        self._speed = max(1.0, window / (self.max_window_share * num_updates))
        self.warmup = min(self.warmup, self.max_warmup_share * num_updates)

    def decay_at(self, update: int) -> float:
        """Decay of an update, counted from 1."""
        return warmup_decay(update, max(0.0, 1 - (1 - self.decay) * self._speed), self.warmup)

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        """Begins anew with the state of ``model``.

        Args:
            model (nn.Module): The model that is averaged.
        """
        for average, source in self.state_pairs(model):
            average.copy_(source)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the state of ``model``.

        Args:
            model (nn.Module): The model that is averaged.
        """
        self.steps += 1
        if self._pairs is None:
            floats = [pair for pair in self.state_pairs(model) if pair[0].is_floating_point()]
            self._pairs = list(zip(*floats))
        averages, sources = self._pairs
        if averages[0].device != sources[0].device:
            sources = [source.to(average.device) for average, source in zip(averages, sources)]
        torch._foreach_lerp_(averages, sources, 1 - self.decay_at(int(self.steps)))

    def state_pairs(self, model: nn.Module) -> list:
        """Tensors of the state of the average and of ``model``, side by side.

        Args:
            model (nn.Module): The model that is averaged.

        Returns:
            list[tuple[Tensor, Tensor]]: The tensors themselves, to be changed in place.
        """
        sources = model.state_dict(keep_vars=True)
        averages = self.module.state_dict(keep_vars=True)
        return [
            (average, sources[key])
            for key, average in averages.items()
            if isinstance(average, torch.Tensor)
        ]

    def get_extra_state(self) -> dict:
        return dict(decay=self.decay)

    def set_extra_state(self, state: dict) -> None:
        self.decay = state['decay']
