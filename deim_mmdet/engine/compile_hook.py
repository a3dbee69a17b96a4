# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Any, Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles parts of the model with ``torch.compile`` when training or testing begins.

    mmengine's ``compile=True`` traces the whole training step, matching and optimizer included, and
    fails there. The backbone and the neck hold most of the work and have fixed shapes; the rest
    stays as it is. Modules are compiled in place: names in the checkpoint do not change.

    Args:
        components (sequence[str]): Dotted names of the submodules to compile.
            Defaults to ('backbone', 'neck').
        **compile_options: Of :func:`torch.compile`: mode, backend, dynamic, ...

    Raises:
        ValueError: The model has no such submodule.
        RuntimeError: PyTorch is older than 2.1 and cannot compile a module in place.
    """

    priority = 'LOW'

    def __init__(
        self, components: Sequence[str] = ('backbone', 'neck'), **compile_options: Any
    ) -> None:
        self.components = tuple(components)
        self.compile_options = compile_options

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name in self.components:
            self._submodule(model, name).compile(**self.compile_options)
        runner.logger.info(
            f'torch.compile: {", ".join(self.components)}; the first steps are slow.'
        )

    @staticmethod
    def _submodule(model: nn.Module, name: str) -> nn.Module:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            children = ', '.join(child for child, _ in model.named_children())
            raise ValueError(
                f'CompileHook: {type(model).__name__} has no submodule {name!r}; it has {children}.'
            ) from None
        if not hasattr(module, 'compile'):
            raise RuntimeError('CompileHook needs PyTorch 2.1 or newer: pip install "torch>=2.1"')
        return module
