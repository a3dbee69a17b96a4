# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os.path as osp
from collections import OrderedDict
from typing import Dict, List, Optional, Sequence

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops training when a loss is NaN or infinite, before the optimiser makes it permanent.

    The error names the step, the terms and the images of the batch. The state from before the step
    goes to ``before_non_finite_loss.pth``, from where training can be resumed; should the weights
    themselves hold a NaN already, the error names the last checkpoint instead.

    Works with every detector, distributed or not: all ranks stop when one of them finds a loss
    that is not finite. It looks at the losses where mmengine adds them up
    (``BaseModel.parse_losses``) and hands them on as values on the host. So a step waits for the
    device once, instead of once for every term that is logged. Values that are logged and no part
    of the loss may be NaN.

    A finite loss may still have a gradient that is not. In full precision
    ``clip_grad=dict(max_norm=0.1, error_if_nonfinite=True)`` of the optimiser wrapper stops there;
    with float16 the gradient scaler expects such steps and skips them.

    Raises:
        FloatingPointError: In the step whose loss is not finite.
    """

    filename = 'before_non_finite_loss.pth'

    def before_train(self, runner: Runner) -> None:
        """Puts the check behind ``parse_losses``.

        Args:
            runner (Runner): The runner.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._model = model
        self._data_batch = None
        self._buffers = _float_buffers(model)
        self._kept = [buffer.clone() for buffer in self._buffers]
        parse_losses = model.parse_losses

        def checked_parse_losses(losses: dict) -> tuple:
            loss, log_vars = parse_losses(losses)
            return loss, self._check(runner, log_vars)

        # hides the method of the class for this one model
        model.parse_losses = checked_parse_losses

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Remembers what the step may spoil, and the batch for the names of its images.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the batch in the epoch.
            data_batch (dict, optional): The batch.
        """
        self._data_batch = data_batch
        _copy(self._buffers, self._kept)

    def after_train(self, runner: Runner) -> None:
        """Takes the check away.

        Args:
            runner (Runner): The runner.
        """
        del self._model.parse_losses
        self._data_batch = None

    def _check(self, runner: Runner, log_vars: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Returns the losses as tensors on the host, or raises FloatingPointError."""
        values = torch.stack([value.detach().float() for value in log_vars.values()])
        losses = torch.stack([value for name, value in zip(log_vars, values) if 'loss' in name])
        # the largest of all ranks, so that no rank waits for one that stopped
        broken = (~losses.isfinite()).any().float()
        all_reduce(broken, op='max')
        *values, broken = torch.cat([values, broken[None]]).cpu().unbind()
        log_vars = OrderedDict(zip(log_vars, values))
        if broken:
            self._stop(runner, log_vars)
        return log_vars

    def _stop(self, runner: Runner, log_vars: Dict[str, Tensor]) -> None:
        terms = {
            name: value.item()
            for name, value in log_vars.items()
            if 'loss' in name and not value.isfinite()
        }
        if len(terms) > 1:
            terms.pop('loss', None)  # the sum follows from its terms
        if terms:
            what = ', '.join(f'{name} = {value}' for name, value in terms.items())
            what = f'{what} for the images {image_paths(self._data_batch)}'
        else:
            what = 'a loss of another rank is not finite'
        raise FloatingPointError(
            f'Training stopped before the optimiser step in epoch {runner.epoch}, iteration '
            f'{runner.iter}, rank {get_rank()}: {what}. {self._save(runner)} Look at these images '
            'and their boxes (tools/check_dataset.py), lower the learning rate, or train without '
            'mixed precision.'
        )

    def _save(self, runner: Runner) -> str:
        """Saves the state from before the step, and says where it is."""
        _copy(self._kept, self._buffers)
        broken = non_finite_entries(self._model)
        if broken:
            last = runner.message_hub.runtime_info.get('last_ckpt')
            saved = f'the last checkpoint is {last}' if last else 'no checkpoint was written before'
            return f'The model itself is no longer finite ({broken[0]}, ...); {saved}.'
        runner.save_checkpoint(
            runner.work_dir,
            self.filename,
            meta=dict(epoch=runner.epoch, iter=runner.iter),
        )
        path = osp.join(runner.work_dir, self.filename)
        return f'The state before this step is in {path}; resuming from it repeats the epoch.'


def _float_buffers(model: torch.nn.Module) -> List[Tensor]:
    """What a forward pass in training may change: the statistics of batch norm and their like."""
    params = {id(param) for param in model.parameters()}
    state = model.state_dict(keep_vars=True).values()
    tensors = [value for value in state if isinstance(value, Tensor) and id(value) not in params]
    return [value for value in tensors if value.is_floating_point()]


@torch.no_grad()
def _copy(sources: List[Tensor], targets: List[Tensor]) -> None:
    if targets and hasattr(torch, '_foreach_copy_'):  # PyTorch 2.0 lacks it
        torch._foreach_copy_(targets, sources)
        return
    for source, target in zip(sources, targets):
        target.copy_(source)


def non_finite_entries(model: torch.nn.Module) -> List[str]:
    """Names of the tensors in the state of a model that hold a NaN or an infinity.

    Args:
        model (nn.Module): The model.

    Returns:
        list[str]: The names, in the order of the state.
    """
    return [
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and not bool(value.isfinite().all())
    ]


def image_paths(data_batch: Optional[dict]) -> List[Sequence[str]]:
    """The files that a batch was read from.

    Args:
        data_batch (dict, optional): A batch as the data loader gives it.

    Returns:
        list: A path per image, or a list of paths for a mosaic whose samples carry
        ``mix_img_paths``.
    """
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [
        sample.metainfo.get('mix_img_paths') or sample.metainfo.get('img_path', 'unknown')
        for sample in samples
    ]
