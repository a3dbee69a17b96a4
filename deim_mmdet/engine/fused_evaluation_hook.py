# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
from typing import Optional

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..models.layers import switch_to_deploy


@HOOKS.register_module()
class FusedEvaluationHook(Hook):
    """Validates and tests with a copy of the model in its deploy form: norms folded into
    convolutions, layers that evaluation does not need left out.

    The copy lives as long as the evaluation, on the device of the model; the model that is trained,
    its average and the checkpoints stay as they are. Results are the same up to rounding (1e-4).
    Takes the weights that the EMA hook has put in, and gives the model back before a checkpoint is
    saved.

    For mixed precision as well set ``fp16=True`` in ``val_cfg`` and ``test_cfg``, which mmengine's
    loops know: float16 on a GPU, bfloat16 on a CPU.

    A model that ``CompileHook`` compiled is copied uncompiled. A runner whose evaluation ended with
    an error still holds the copy: build a new one.
    """

    priority = 'LOW'  # after EMAHook (NORMAL), before CheckpointHook (VERY_LOW)

    def __init__(self) -> None:
        self._trained: Optional[torch.nn.Module] = None

    def before_val_epoch(self, runner: Runner) -> None:
        self._switch(runner)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        self._give_back(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        self._switch(runner)

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        self._give_back(runner)

    def _switch(self, runner: Runner) -> None:
        self._trained = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = switch_to_deploy(copy.deepcopy(model), fold_all_norms=True)

    def _give_back(self, runner: Runner) -> None:
        runner.model, self._trained = self._trained, None
