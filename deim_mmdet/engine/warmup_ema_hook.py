# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import EMAHook
from mmengine.runner import Runner


@HOOKS.register_module()
class WarmupEMAHook(EMAHook):
    """Keeps a ``WarmupEMA`` of the model and evaluates with it.

    Checkpoints are those of mmengine's ``EMAHook``: the average is their ``state_dict``, the
    trained weights are under ``ema_state_dict``, and resuming puts each back in its place.

    Differs from ``EMAHook``: the average begins with the weights that training begins with
    (``EMAHook`` copies the model before its weights are initialised), its constants fit the length
    of the run, and weights are swapped by name, so that modules may cache tensors that are not part
    of their state.

    Args:
        decay (float): Decay that is approached. Defaults to 0.9999.
        warmup (float): Constant of the warm-up in updates. Defaults to 1000.
        **kwargs: Other arguments of ``EMAHook`` and ``WarmupEMA``.
    """

    def __init__(self, decay: float = 0.9999, warmup: float = 1000, **kwargs):
        kwargs.setdefault('ema_type', 'WarmupEMA')
        super().__init__(decay=decay, warmup=warmup, **kwargs)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Resumes the average. Weights that are only loaded reach it through the model, so they
        may be in any form that the model takes.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint.
        """
        if runner._resume:
            super().after_load_checkpoint(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Begins with the weights of the model, unless the run is resumed.

        Args:
            runner (Runner): The runner.
        """
        super().before_train(runner)
        self.ema_model.fit_to_run(runner.max_iters)
        if int(self.ema_model.steps) == 0:
            self.ema_model.copy_from(self.src_model)

    @torch.no_grad()
    def _swap_ema_parameters(self) -> None:
        if int(self.ema_model.steps) == 0:
            return  # nothing averaged yet: the weights of the model are all there is
        for average, source in self.ema_model.state_pairs(self.src_model):
            kept = average.clone()
            average.copy_(source)
            source.copy_(kept)
