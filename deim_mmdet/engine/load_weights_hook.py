# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import logging
from typing import Mapping, Optional, Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from ..convert.class_rows import class_tensors, fit_class_rows
from ..convert.on_load import convert_published


@HOOKS.register_module()
class LoadWeightsHook(Hook):
    """Fits the weights of ``load_from`` to the run: published files, and other classes.

    A published checkpoint of a known family is converted. Then every class of the data set gets the
    class rows of the class of the same name in the checkpoint (``convert.class_rows``), also when
    the number of classes is the same, since their order may differ. Other classes begin with a
    score of 0.01. A log line says which rows came from where. Resuming is left alone.

    Comes before ``WarmupEMAHook``, whose average begins with the weights as they are loaded.

    Args:
        aliases (Mapping[str, str], optional): Class of the data set -> what the checkpoint calls
            it, where that is another name, e.g. dict(van='car'). Defaults to None.

    Raises:
        ValueError: If a class list names a class twice or has another length than its head, or an
            alias is no class.
    """

    priority = 'HIGH'

    def __init__(self, aliases: Optional[Mapping[str, str]] = None):
        self.aliases = aliases

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Changes the checkpoint before the model and the average take its weights.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint, changed in place: mmengine loads this very dict.
        """
        if runner._resume:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if 'state_dict' not in checkpoint:
            weights = dict(checkpoint)
            convert_published(model, weights)
            checkpoint.clear()
            checkpoint['state_dict'] = weights
        wanted = dataset_classes(runner)
        if wanted is None or not class_tensors(checkpoint['state_dict']):
            return
        training = isinstance(runner._train_loop, BaseLoop)
        fitted = fit_class_rows(checkpoint, model.state_dict(), wanted, self.aliases, training)
        checkpoint['state_dict'] = fitted.state
        if fitted.hint:
            runner.logger.log(logging.WARNING, f'{fitted.message}. {fitted.hint}')
        else:
            runner.logger.log(logging.INFO, fitted.message)


def dataset_classes(runner: Runner) -> Optional[Sequence[str]]:
    """Classes of the data set of a run, that of training first.

    Args:
        runner (Runner): A runner that trains, validates or tests.

    Returns:
        Sequence[str] | None: The names; None when the data set has none.
    """
    # the public properties would build loops that this run does not need
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            classes = getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes')
            return (classes,) if isinstance(classes, str) else classes
    return None
