# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim import LinearLR
from mmengine.optim.scheduler.param_scheduler import INF

from .flat_cosine_lr import check_convertible


@PARAM_SCHEDULERS.register_module()
class LinearWarmupLR(LinearLR):
    """Linear warm-up, then constant: the schedule of D-FINE, RT-DETR and RT-DETRv2.

    Iteration t, counted from 0, uses ``min(1, (t + 1) / warmup)`` times the base value::

        param_scheduler = dict(type='LinearWarmupLR', convert_to_iter_based=True, warmup=500)

    Source: the published training settings.
    Differs from the published implementation: the warm-up takes at most ``max_warmup_share`` of the
    run, as in ``FlatCosineLR``.

    Args:
        optimizer (Optimizer | OptimWrapper): The optimiser.
        warmup (int): Length of the warm-up in iterations.
        end (int): Length of the run in iterations. mmengine fills it in.
        max_warmup_share (float): Largest share of the run that the warm-up takes.
            Defaults to 0.1.
        by_epoch (bool): False for a schedule in iterations; True needs ``convert_to_iter_based``.
            Defaults to True.
        kwargs: Other arguments of ``LinearLR``.

    Raises:
        ValueError: If the schedule is not converted to iterations, does not know the length of the
            run, or a number is out of its range.
    """

    def __init__(
        self,
        optimizer,
        warmup: int,
        end: int = INF,
        max_warmup_share: float = 0.1,
        by_epoch: bool = True,
        **kwargs,
    ):
        if by_epoch or end >= INF:
            raise ValueError(
                'LinearWarmupLR changes the learning rate in every iteration and must know the '
                'length of the run: add convert_to_iter_based=True, or by_epoch=False and end; got '
                f'by_epoch={by_epoch}, end={end}'
            )
        if warmup < 1 or not 0 < max_warmup_share <= 1:
            raise ValueError(
                'LinearWarmupLR needs warmup >= 1 and 0 < max_warmup_share <= 1, but got '
                f'warmup={warmup}, max_warmup_share={max_warmup_share}'
            )
        # LinearLR reaches its end value in the step before ``end``, and takes two steps or more
        warmup = max(2, min(warmup, int(max_warmup_share * end)))
        super().__init__(
            optimizer, start_factor=1 / warmup, end_factor=1.0, end=warmup, by_epoch=False, **kwargs
        )

    @classmethod
    def build_iter_from_epoch(
        cls, *args, end: int = INF, by_epoch: bool = True, epoch_length: int = None, **kwargs
    ) -> 'LinearWarmupLR':
        """Builds the schedule of a run whose length is in epochs; called by mmengine.

        Args:
            end (int): Length of the run in epochs. mmengine fills it in.
            by_epoch (bool): Must be True. Defaults to True.
            epoch_length (int): Iterations per epoch. mmengine fills it in.

        Returns:
            LinearWarmupLR: The schedule in iterations.

        Raises:
            ValueError: If the length of an epoch is not known.
        """
        check_convertible(by_epoch, epoch_length)
        return cls(*args, end=end * epoch_length, by_epoch=False, **kwargs)
