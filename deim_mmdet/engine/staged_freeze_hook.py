# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import gc
from functools import cache
from typing import Any, Iterator, List, Optional, Sequence
from weakref import WeakKeyDictionary

import torch
from mmdet.registry import HOOKS
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

# optimiser -> the parameters of each of its groups before any were left out
_ALL_PARAMETERS: 'WeakKeyDictionary' = WeakKeyDictionary()


def is_frozen_in(epoch: int, begin: int, end: Optional[int]) -> bool:
    """Whether ``begin <= epoch < end``, where no end is the end of the run."""
    return begin <= epoch and (end is None or epoch < end)


@HOOKS.register_module()
class StagedFreezeHook(Hook):
    """Freezes parts of any detector, from the start or from a later epoch on, for good or a while.

    A frozen part gets no gradients, its norms stay in evaluation mode whatever ``model.train()``
    says, the optimiser does not hold its parameters, and its forward keeps no activations. Its
    tensors, statistics included, are the same bits before and after. (Where trained parts come
    before it, gradients have to pass through to them, so its activations are kept.)

    Works with averages (EMA), AMP, ``--resume`` at any epoch, and distributed training without
    ``find_unused_parameters``: the model is wrapped anew when the parts change.

    Source: step-by-step training of DEYO (`arXiv:2402.16370 <https://arxiv.org/abs/2402.16370>`_).

    Args:
        parts (Sequence[str]): Dotted names of submodules, for instance ['backbone', 'neck'].
        begin (int): First epoch in which they are frozen, counted from 0. Defaults to 0.
        end (int, optional): First epoch in which they are trained again. Defaults to None: never.

    Raises:
        ValueError: No part is named, ``end`` is not after ``begin``, or, when training begins, the
            model has no such part; the message lists those that it has.
    """

    priority = 'HIGH'

    def __init__(self, parts: Sequence[str], begin: int = 0, end: Optional[int] = None):
        if isinstance(parts, str) or not parts:
            raise ValueError(f"parts must be a list of names, as in ['backbone'], got {parts!r}")
        if begin < 0 or (end is not None and end <= begin):
            raise ValueError(
                f'begin must be at least 0 and end after it, got begin={begin}, end={end}'
            )
        self.parts = tuple(parts)
        self.begin = begin
        self.end = end
        self.is_frozen = False
        self._without_gradient: List[nn.Parameter] = []  # parameters that this hook froze

    def before_train(self, runner: Runner) -> None:
        """Checks the names and begins.

        Args:
            runner (Runner): The runner.
        """
        modules = self._modules(runner)
        if self._is_due(runner) and not has_trained_weights(runner, modules):
            runner.logger.warning(
                f'StagedFreezeHook freezes {", ".join(self.parts)} with random weights: nothing '
                'was loaded. What is trained on random features that never adapt stays far below '
                'what the same time gives without freezing. Train these parts first and set '
                'load_from to their checkpoint, or leave the hook out.'
            )
        self.before_train_epoch(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Freezes or thaws where an epoch begins that says so.

        Args:
            runner (Runner): The runner.
        """
        if self._is_due(runner) != self.is_frozen:
            self._switch(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Notes what is frozen: the optimiser of a resumed run must hold the same parameters.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): Gets the names under 'frozen_parts'.
        """
        if self.is_frozen:
            checkpoint['frozen_parts'] = [*checkpoint.get('frozen_parts', ()), *self.parts]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Goes to the state in which the checkpoint of a resumed run was saved.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint.
        """
        if runner._resume:
            was_frozen = set(self.parts) <= set(checkpoint.get('frozen_parts', ()))
            if was_frozen != self.is_frozen:
                self._switch(runner)

    def _is_due(self, runner: Runner) -> bool:
        return is_frozen_in(runner.epoch, self.begin, self.end)

    def _switch(self, runner: Runner) -> None:
        self.is_frozen = not self.is_frozen
        for module in self._modules(runner):
            (freeze if self.is_frozen else thaw)(module)
        if self.is_frozen:
            parameters = (p for module in self._modules(runner) for p in module.parameters())
            self._without_gradient = [p for p in parameters if p.requires_grad]
            for module in self._modules(runner):
                for buffer in module.buffers():
                    # statistics that were not synchronised differ, and would from now on for good
                    broadcast(buffer)
        for parameter in self._without_gradient:
            parameter.requires_grad_(not self.is_frozen)
            parameter.grad = None
        for optimizer in optimizers_of(runner.optim_wrapper):
            hold_trainable_parameters(optimizer)
        wrap_anew(runner)
        parameters = list(runner.model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        runner.logger.info(
            f'{", ".join(self.parts)}: {"frozen" if self.is_frozen else "trained"} from epoch '
            f'{runner.epoch} on; {trainable:,} of {total:,} parameters '
            'are trainable'
        )

    def _modules(self, runner: Runner) -> List[nn.Module]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        return [find_part(model, name) for name in self.parts]


class FrozenPart:
    """What is put in front of the class of a module to freeze it, see :func:`freeze`.

    A class, and neither hooks nor a new ``forward`` on the instance: copies of the module (an
    average, say) then run themselves, not the original.
    """

    def forward(self, *args, **kwargs):
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradient((args, kwargs))):
            return super().forward(*args, **kwargs)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _NormBase):
                module.training = False
        return self


def freeze(module: nn.Module) -> None:
    """Keep norms in evaluation mode and no activations, in place; gradients are the caller's."""
    module.__class__ = frozen_class(type(module))
    module.train(module.training)


def thaw(module: nn.Module) -> None:
    """Undo :func:`freeze`."""
    module.__class__ = next(base for base in type(module).__bases__ if base is not FrozenPart)
    module.train(module.training)


@cache
def frozen_class(cls: type) -> type:
    """The class ``cls`` with :class:`FrozenPart` in front, under the same name."""
    return type(cls.__name__, (FrozenPart, cls), dict(__module__=cls.__module__))


def needs_gradient(value: Any) -> bool:
    """Whether a tensor with a gradient is among (nested) arguments."""
    if isinstance(value, torch.Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, (tuple, list)) and any(map(needs_gradient, value))


def find_part(model: nn.Module, name: str) -> nn.Module:
    """Submodule by its dotted name.

    Raises:
        ValueError: There is none; the message lists those of the last part that there is.
    """
    module = model
    for depth, word in enumerate(name.split('.')):
        children = dict(module.named_children())
        if word not in children:
            owner = '.'.join(name.split('.')[:depth]) or type(model).__name__
            raise ValueError(
                f'StagedFreezeHook: there is no part {name!r}. The parts of {owner} are '
                f'{", ".join(children) or "none"}.'
            )
        module = children[word]
    return module


def has_trained_weights(runner: Runner, modules: Sequence[nn.Module]) -> bool:
    """Whether a run began with a checkpoint, or with pretrained weights of all of the modules."""
    if runner._load_from is not None or runner._resume or runner.epoch > 0:
        return True
    kinds = [(getattr(module, 'init_cfg', None) or {}) for module in modules]
    return all(isinstance(kind, dict) and kind.get('type') == 'Pretrained' for kind in kinds)


def optimizers_of(optim_wrapper) -> Iterator[torch.optim.Optimizer]:
    """The optimisers of a wrapper, or of several."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        for each in optim_wrapper.values():
            yield each.optimizer
    elif isinstance(optim_wrapper, OptimWrapper):
        yield optim_wrapper.optimizer


def hold_trainable_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Let the groups of an optimiser hold, in their order, what has a gradient now.

    Groups stay even where they become empty: schedules know them by their number. The state of what
    is left out is forgotten.

    Args:
        optimizer (Optimizer): Built when all of its parameters had a gradient.
    """
    groups = optimizer.param_groups
    parameters = _ALL_PARAMETERS.setdefault(optimizer, [list(group['params']) for group in groups])
    for group, every in zip(groups, parameters):
        group['params'] = [p for p in every if p.requires_grad]
        for parameter in every:
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)


def wrap_anew(runner: Runner) -> None:
    """Let a distributed wrapper see which parameters have a gradient now: it looks only once."""
    if not isinstance(runner.model, DistributedDataParallel):
        return
    module, runner.model = runner.model.module, None
    gc.collect()  # the old wrapper must not answer to gradients any more
    runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), module)
