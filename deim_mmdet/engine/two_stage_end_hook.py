# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import os.path as osp
from typing import Dict, Optional

from mmdet.registry import HOOKS
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, Runner

STATE_KEY = 'two_stage_end'
FILENAME = 'best_stage1.pth'


@HOOKS.register_module()
class TwoStageEndHook(Hook):
    """Trains the last epochs, without strong augmentation, from the best model before them.

    The best evaluation of the first stage is kept in ``best_stage1.pth``: model, average, optimiser
    and gradient scaler. Where the second stage begins they are loaded again, and the decay of the
    average is set to ``restart_decay``. Whenever an evaluation of the second stage is not better
    than the best before, the next epoch begins by loading them once more, with a decay that is
    lower by ``decay_step``; what was reached with the old decay then no longer counts. Epoch,
    iteration and learning rate go on meanwhile.

    What the hook knows is part of every checkpoint, and the checkpoint of an epoch is written again
    when its evaluation changed that: a run may be resumed at any epoch, in the second stage too.
    The weights in it are always those that were trained and evaluated.

    Needs a ``WarmupEMAHook``. Comes after all other hooks, to know what the checkpoint hook saved.

    Source: D-FINE (arXiv 2410.13842) and DEIM as published.
    Differs from the published implementation: that one cannot be resumed in the second stage.

    Args:
        begin (int): First epoch of the second stage, counted from 0.
        restart_decay (float): Decay of the average from there on. Defaults to 0.9999.
        decay_step (float): By how much an evaluation without progress lowers it.
            Defaults to 0.0001.
        metric (str): Key of the metric. Defaults to 'coco/bbox_mAP'.
        rule (str): 'greater' or 'less': which value is better. Defaults to 'greater'.

    Raises:
        ValueError: If an argument is out of its range, there is no average with a decay, or the
            metric is missing from an evaluation.
        TypeError: If the training loop does not count epochs.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        begin: int,
        restart_decay: float = 0.9999,
        decay_step: float = 1e-4,
        metric: str = 'coco/bbox_mAP',
        rule: str = 'greater',
    ):
        if begin < 0 or not 0 <= restart_decay < 1 or decay_step < 0:
            raise ValueError(
                'TwoStageEndHook needs begin >= 0, 0 <= restart_decay < 1 and decay_step >= 0, but '
                f'got begin={begin}, restart_decay={restart_decay}, decay_step={decay_step}'
            )
        if rule not in ('greater', 'less'):
            raise ValueError(f"rule must be 'greater' or 'less', but got {rule!r}")
        self.begin = begin
        self.restart_decay = restart_decay
        self.decay_step = decay_step
        self.metric = metric
        self.rule = rule
        # best: score to beat; best_stage1: best score of the first stage, path: its checkpoint;
        # restarted: whether the second stage has begun; next_decay: decay to begin the next epoch
        # with after loading the best, None to go on as it is
        self.state = dict(best=None, best_stage1=None, path=None, restarted=False, next_decay=None)
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Takes up the state of a resumed run.

        Args:
            runner (Runner): The runner.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'TwoStageEndHook counts epochs and needs an EpochBasedTrainLoop, but got '
                f'{type(runner.train_loop).__name__}'
            )
        self._ema(runner)
        if self.begin >= runner.max_epochs:
            runner.logger.warning(
                f'TwoStageEndHook: the second stage begins in epoch {self.begin}, but the run ends '
                f'after {runner.max_epochs}: it never begins. A config that changes max_epochs '
                'states begin, the stages of DenseO2OHook and the schedule again.'
            )
        self.state.update(runner.message_hub.runtime_info.get(STATE_KEY, {}))
        self._last_checkpoint = _last_checkpoint(runner)
        self._training = True

    def before_train_epoch(self, runner: Runner) -> None:
        """Begins the second stage, or goes back to the best of the first.

        Args:
            runner (Runner): The runner.
        """
        if runner.epoch >= self.begin and not self.state['restarted']:
            self._load_best(runner, self.restart_decay)
            self._set_state(runner, restarted=True)
        elif self.state['next_decay'] is not None:
            self._load_best(runner, self.state['next_decay'])
            self._set_state(runner, best=None, next_decay=None)

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Keeps the best of the first stage; decides in the second whether to go back to it.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): The metrics of the evaluation.
        """
        if not self._training:  # Runner.val()
            return
        if self.metric not in (metrics or {}):
            raise ValueError(
                f'TwoStageEndHook watches the metric {self.metric!r}, but the evaluation gave '
                f'{sorted(metrics or {})}; set its metric to one of them'
            )
        score = float(metrics[self.metric])
        # the evaluation after epoch e comes when runner.epoch is e + 1
        in_first_stage = runner.epoch <= self.begin
        best = self.state['best']
        better = best is None or (score > best if self.rule == 'greater' else score < best)

        if in_first_stage and better:
            path = osp.join(osp.abspath(runner.work_dir), FILENAME)
            self._set_state(runner, best=score, best_stage1=score, path=path)
            _save(runner, path)
        elif better:
            self._set_state(runner, best=score)
        elif not in_first_stage:
            decay = max(0.0, self._ema(runner).decay - self.decay_step)
            self._set_state(runner, next_decay=decay)
        else:
            return
        self._update_last_checkpoint(runner)

    def _load_best(self, runner: Runner, decay: float) -> None:
        """Loads the best of the first stage and sets the decay of the average."""
        barrier()  # the main process may still be writing
        ema = self._ema(runner)
        path = self._best_path(runner)
        if path is None:
            runner.logger.warning(
                f'{FILENAME} is not there, since no evaluation came before epoch {self.begin} or '
                'the file was moved: training goes on with the present weights'
            )
        else:
            _load(runner, ema, CheckpointLoader.load_checkpoint(path, map_location='cpu'))
            runner.logger.info(
                f'Epoch {runner.epoch}: loaded {path} ({self.metric} '
                f'{self.state["best_stage1"]:.4f}), decay of the average now {decay:.4f}'
            )
        ema.decay = decay

    def _best_path(self, runner: Runner) -> Optional[str]:
        if self.state['path'] is None:
            return None
        # a work directory may have been moved between two runs
        for path in (osp.join(runner.work_dir, FILENAME), self.state['path']):
            if osp.isfile(path):
                return path
        return None

    def _set_state(self, runner: Runner, **changes) -> None:
        self.state.update(changes)
        runner.message_hub.update_info(STATE_KEY, dict(self.state))

    def _update_last_checkpoint(self, runner: Runner) -> None:
        """Writes the checkpoint of this epoch again: it was saved before the evaluation."""
        last = _last_checkpoint(runner)
        if last is None or last == self._last_checkpoint or not osp.isdir(osp.dirname(last)):
            return  # none of this epoch, or not on this file system
        hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        self._last_checkpoint = last
        _save(runner, last, hook.save_optimizer, hook.save_param_scheduler)

    @staticmethod
    def _ema(runner: Runner):
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and hasattr(hook.ema_model, 'decay'):
                return hook.ema_model
        raise ValueError(
            'TwoStageEndHook changes the decay of an average: add '
            "dict(type='WarmupEMAHook') to the hooks"
        )


def _last_checkpoint(runner: Runner) -> Optional[str]:
    return runner.message_hub.runtime_info.get('last_ckpt')


def _save(runner: Runner, path: str, optimizer: bool = True, schedulers: bool = False) -> None:
    # a kill while it is written must not cost the one that is there
    unfinished = f'{path}.unfinished'
    runner.save_checkpoint(
        osp.dirname(path),
        osp.basename(unfinished),
        save_optimizer=optimizer,
        save_param_scheduler=schedulers,
        meta=dict(epoch=runner.epoch, iter=runner.iter),
    )
    if is_main_process():
        os.replace(unfinished, path)


def _load(runner: Runner, ema, checkpoint: dict) -> None:
    """Puts the weights, the average and the state of the optimiser of a checkpoint in place."""
    # mmengine saves the average as state_dict, and the trained weights under ema_state_dict
    averaged = checkpoint['state_dict']
    trained = {
        key[len('module.') :]: value
        for key, value in checkpoint['ema_state_dict'].items()
        if key.startswith('module.')
    }
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    model.load_state_dict(trained)
    ema.module.load_state_dict(averaged)
    ema.steps.copy_(checkpoint['ema_state_dict']['steps'])

    # the state of the optimiser goes back, its settings (the learning rate of now) stay
    groups = runner.optim_wrapper.param_groups
    settings = [{k: v for k, v in group.items() if k != 'params'} for group in groups]
    runner.optim_wrapper.load_state_dict(checkpoint['optimizer'])
    for group, kept in zip(runner.optim_wrapper.param_groups, settings):
        group.update(kept)
    runner.optim_wrapper.zero_grad()
