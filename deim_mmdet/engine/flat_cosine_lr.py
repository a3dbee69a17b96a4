# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from typing import List, Optional

from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF


def flat_cosine_factor(
    iteration: int, warmup: int, flat_until: int, decay_until: int, gamma: float
) -> float:
    """The learning rate as a factor of its base value.

    Args:
        iteration (int): Iteration, counted from 0.
        warmup (int): Last iteration of the quadratic warm-up; 0 for none.
        flat_until (int): First iteration of the cosine.
        decay_until (int): First iteration of the constant end.
        gamma (float): Factor at the end.

    Returns:
        float: ``(iteration / warmup)**2``, then 1, then a cosine from 1 to ``gamma``, then
        ``gamma``.
    """
    if iteration <= warmup and warmup > 0:
        return (iteration / warmup) ** 2
    if iteration < flat_until:
        return 1.0
    if iteration >= decay_until:
        return gamma
    progress = (iteration - flat_until) / (decay_until - flat_until)
    return gamma + 0.5 * (1 - gamma) * (1 + math.cos(math.pi * progress))


def check_convertible(by_epoch: bool, epoch_length: Optional[int]) -> None:
    """Refuse to turn epochs into iterations without knowing their length.

    Raises:
        ValueError: If the schedule is not in epochs, or the length of an epoch is not known.
    """
    if not by_epoch or not epoch_length:
        raise ValueError(
            'convert_to_iter_based=True needs by_epoch=True and the length of an epoch, but '
            f'got by_epoch={by_epoch}, epoch_length={epoch_length}'
        )


@PARAM_SCHEDULERS.register_module()
class FlatCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Quadratic warm-up, flat, cosine, and a constant end: the schedule of DEIM.

    The value depends on the iteration alone, so a resumed run goes on exactly where it was. Like
    the published one it is stepped after the optimiser: iteration t + 1 uses the value of t, and
    iteration 0 uses ``first_factor`` times the base value, since nothing was stepped before it.

    Write it in epochs, and let mmengine turn them into iterations::

        param_scheduler = dict(
            type='FlatCosineLR', convert_to_iter_based=True, flat_until=29, no_aug=8, gamma=0.5)

    or give ``by_epoch=False`` with everything in iterations. ``end`` is the length of the run,
    which mmengine fills in.

    Source: DEIM, arXiv 2412.04234, appendix, and RTMDet (arXiv 2212.07784), as published.
    Differs from the published implementation: the warm-up takes at most ``max_warmup_share`` of the
    run. On COCO 2000 iterations are 1.4 % of a run or less and stay as they are; on a few hundred
    images they would be most of it.

    Args:
        optimizer (Optimizer | OptimWrapper): The optimiser.
        flat_until (int): Where the cosine begins, in epochs (in iterations with
            ``by_epoch=False``). Beyond the end: no cosine.
        no_aug (int): Length of the constant end, in the same unit. Defaults to 0.
        gamma (float): Last learning rate as a factor of the base value. Defaults to 0.5.
        warmup (int): Length of the warm-up in iterations. Defaults to 2000.
        max_warmup_share (float): Largest share of the run that the warm-up takes.
            Defaults to 0.1.
        first_factor (float): Factor of iteration 0 when there is a warm-up. Defaults to 1 / 500
            (RT-DETRv2: 1 / 2000).
        begin (int): Must be 0. Defaults to 0.
        end (int): Length of the run. mmengine fills it in.
        last_step (int): As in mmengine. Defaults to -1.
        by_epoch (bool): False for a schedule in iterations; True needs ``convert_to_iter_based``.
            Defaults to True.
        verbose (bool): Whether to print each value. Defaults to False.

    Raises:
        ValueError: If the schedule is in epochs and not converted, does not know the length of the
            run, or a number is out of its range.
    """

    def __init__(
        self,
        optimizer,
        flat_until: int,
        no_aug: int = 0,
        gamma: float = 0.5,
        warmup: int = 2000,
        max_warmup_share: float = 0.1,
        first_factor: float = 1 / 500,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ):
        if by_epoch:
            raise ValueError(
                'FlatCosineLR changes the learning rate in every iteration: add '
                'convert_to_iter_based=True to write it in epochs, or by_epoch=False to write it '
                'in iterations'
            )
        if end >= INF or begin != 0:
            raise ValueError(
                'FlatCosineLR covers the whole run and must know its length: leave out begin and '
                f'end, the Runner fills them in; got begin={begin}, end={end}'
            )
        if not 0 <= no_aug <= end or flat_until < 0 or warmup < 0 or not 0 < max_warmup_share <= 1:
            raise ValueError(
                'FlatCosineLR needs 0 <= no_aug <= end, flat_until >= 0, warmup >= 0 and '
                f'0 < max_warmup_share <= 1, but got no_aug={no_aug}, end={end} (iterations), '
                f'flat_until={flat_until}, warmup={warmup}, max_warmup_share={max_warmup_share}. '
                'In our configs flat_until and no_aug follow from max_epochs, and so do the stages '
                'of DenseO2OHook and the begin of TwoStageEndHook: change them together.'
            )
        self.warmup = min(warmup, int(max_warmup_share * end))
        self.flat_until = flat_until
        self.decay_until = end - no_aug
        self.gamma = gamma
        self.first_factor = first_factor if self.warmup else 1.0
        super().__init__(
            optimizer, begin=begin, end=end, last_step=last_step, by_epoch=False, verbose=verbose
        )

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        flat_until: float,
        no_aug: float = 0,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int = None,
        **kwargs,
    ) -> 'FlatCosineLR':
        """Builds the schedule from one that is written in epochs; called by mmengine.

        Args:
            flat_until (float): Where the cosine begins, in epochs.
            no_aug (float): Length of the constant end in epochs. Defaults to 0.
            begin (int): Must be 0. Defaults to 0.
            end (int): Length of the run in epochs. mmengine fills it in.
            by_epoch (bool): Must be True. Defaults to True.
            epoch_length (int): Iterations per epoch. mmengine fills it in.

        Returns:
            FlatCosineLR: The schedule in iterations.

        Raises:
            ValueError: If the length of an epoch is not known.
        """
        check_convertible(by_epoch, epoch_length)
        return cls(
            *args,
            flat_until=int(flat_until * epoch_length),
            no_aug=int(no_aug * epoch_length),
            begin=begin * epoch_length,
            end=end * epoch_length if end < INF else INF,
            by_epoch=False,
            **kwargs,
        )

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up the position of a resumed run.

        The shape stays that of the config, so that a run may be resumed to go on for longer.

        Args:
            state_dict (dict): State of the schedule in a checkpoint.
        """
        self._global_step = state_dict['_global_step']
        self.base_values = state_dict['base_values']
        # last_step stands still at the end of a run, where it may now go on
        self.last_step = self._global_step
        self._last_value = self._get_value()
        for group, value in zip(self.optimizer.param_groups, self._last_value):
            group[self.param_name] = value

    def _get_value(self) -> List[float]:
        if self.last_step == 0:
            factor = self.first_factor
        else:
            factor = flat_cosine_factor(
                self.last_step - 1, self.warmup, self.flat_until, self.decay_until, self.gamma
            )
        return [base * factor for base in self.base_values]
