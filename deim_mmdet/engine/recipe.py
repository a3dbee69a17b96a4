# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Changes the schedule of a configuration as a whole: its length, or all of it."""

import copy
from typing import Callable, Iterator, Optional

from mmengine.config import Config, ConfigDict

# What makes a schedule, beside its hooks.
SCHEDULE = ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr')
# Names that our configs give to epochs, which a written configuration shows.
EPOCHS = ('max_epochs', 'mosaic_begin', 'mosaic_end', 'plain_end')


def set_epochs(cfg: Config, epochs: int) -> Config:
    """A copy of a configuration that trains for another number of epochs.

    What counts in epochs keeps its share of the run: stages of Dense O2O, second stage, decay of
    the learning rate. What comes before the end still does, by one epoch at least.

    Args:
        cfg (Config): A configuration that trains in epochs.
        epochs (int): Number of epochs, at least 1.

    Returns:
        Config: The new configuration.

    Raises:
        ValueError: If ``epochs`` is less than 1, or training counts iterations.
    """
    cfg = copy.deepcopy(cfg)
    old = (cfg.get('train_cfg') or {}).get('max_epochs')
    if epochs < 1:
        raise ValueError(f'The number of epochs must be at least 1, got {epochs}.')
    if not old:
        raise ValueError(
            f'{cfg.filename or "The configuration"} does not train in epochs, so their number '
            'cannot be changed: its train_cfg has no max_epochs.'
        )

    def at(epoch: int) -> int:
        return scale_epoch(epoch, old, epochs)

    def first(epoch: int) -> int:
        return at(epoch - 1) + 1  # counted from 1

    cfg.train_cfg.max_epochs = epochs
    if cfg.train_cfg.get('val_begin'):
        cfg.train_cfg.val_begin = first(cfg.train_cfg.val_begin)
    if cfg.train_cfg.get('dynamic_intervals'):
        cfg.train_cfg.dynamic_intervals = [
            (at(begin), interval) for begin, interval in cfg.train_cfg.dynamic_intervals
        ]
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in [schedulers] if isinstance(schedulers, dict) else schedulers:
        if scheduler.get('by_epoch', True):
            _scale_scheduler(scheduler, at, old, epochs)
    if isinstance(schedulers, list):
        # a warm-up of less than half an epoch is none
        cfg.param_scheduler = [s for s in schedulers if s.get('begin', 0) != s.get('end')]
    for hook in _hooks(cfg):
        for name in ('stages', 'mixup'):
            if hook['type'] == 'DenseO2OHook' and hook.get(name):
                hook[name] = tuple(at(epoch) for epoch in hook[name])
        if hook['type'] == 'TwoStageEndHook' and hook['begin']:
            hook['begin'] = max(1, at(hook['begin']))  # a first stage, to go back to
        if hook['type'] == 'StagedFreezeHook':
            hook['begin'] = at(hook.get('begin', 0))
            if hook.get('end') is not None:
                hook['end'] = max(hook['begin'] + 1, at(hook['end']))
        if hook['type'] == 'EMAHook' and hook.get('begin_epoch'):
            hook['begin_epoch'] = first(hook['begin_epoch'])
        if hook['type'] == 'PipelineSwitchHook':
            hook['switch_epoch'] = at(hook['switch_epoch'])
        if hook['type'] == 'YOLOXModeSwitchHook':
            hook['num_last_epochs'] = epochs - at(old - hook['num_last_epochs'])
    for name in EPOCHS:
        if isinstance(cfg.get(name), int):
            cfg[name] = at(cfg[name])
    if isinstance(cfg.get('no_aug_epochs'), int):
        cfg.no_aug_epochs = epochs - at(old - cfg.no_aug_epochs)
    return cfg


def scale_epoch(epoch: int, old: int, new: int) -> int:
    """The epoch of a run of ``new`` epochs at the same share as ``epoch`` of a run of ``old``.

    Args:
        epoch (int): Epoch, counted from 0; the end of the run, or more, stays there.
        old (int): Length of the run it belongs to.
        new (int): Length of the other run.

    Returns:
        int: In [0, new]; less than ``new`` where ``epoch`` is less than ``old``.
    """
    if epoch >= old:
        return new
    return min(round(epoch * new / old), new - 1)


def use_recipe(cfg: Config, recipe: Config) -> Config:
    """A copy of a configuration that trains by the schedule of another one.

    Model and data stay. Loop, optimiser, learning rate and the hooks that both name become those of
    the recipe, and so do those that only the recipe has; ``DenseO2OHook`` is left out where there
    was none, since nothing would be there to steer. The other hooks keep their share of the run, as
    in :func:`set_epochs`.

    Args:
        cfg (Config): A configuration of a detector.
        recipe (Config): A schedule, such as configs/_base_/schedules/finetune.py.

    Returns:
        Config: The new configuration.
    """
    in_epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    cfg = set_epochs(cfg, recipe.train_cfg.max_epochs) if in_epochs else copy.deepcopy(cfg)
    recipe = copy.deepcopy(recipe)
    for name in (*SCHEDULE, *EPOCHS, 'no_aug_epochs'):
        if name in recipe:
            cfg[name] = recipe[name]
        else:
            cfg.pop(name, None)
    types = {hook['type'] for hook in _hooks(cfg)}
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    new = {
        name: hook
        for name, hook in recipe.default_hooks.items()
        if hook['type'] != 'DenseO2OHook' or hook['type'] in types
    }
    replaced = {hook['type'] for hook in new.values()}
    if 'WarmupEMAHook' in replaced:
        replaced.add('EMAHook')  # two averages would swap their weights with each other
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if h['type'] not in replaced]
    for name in [name for name, hook in hooks.items() if hook and hook['type'] in replaced]:
        del hooks[name]
    hooks.update(new)
    return cfg


def find_hook(cfg: Config, kind: str) -> Optional[dict]:
    """The first hook of a type in a configuration; None when it has none.

    Args:
        cfg (Config): A configuration.
        kind (str): Name of the class.
    """
    return next((hook for hook in _hooks(cfg) if hook['type'] == kind), None)


def _hooks(cfg: Config) -> Iterator[dict]:
    yield from (hook for hook in (cfg.get('default_hooks') or {}).values() if hook)
    yield from cfg.get('custom_hooks') or []


def _scale_scheduler(scheduler: dict, at: Callable[[int], int], old: int, new: int) -> None:
    begin, end, period = scheduler.get('begin', 0), scheduler.get('end'), scheduler.get('T_max')
    for name in ('begin', 'end', 'flat_until'):
        if isinstance(scheduler.get(name), int):
            scheduler[name] = at(scheduler[name])
    if scheduler.get('milestones'):
        scheduler['milestones'] = [at(epoch) for epoch in scheduler['milestones']]
    if isinstance(scheduler.get('no_aug'), int):  # length
        scheduler['no_aug'] = new - at(old - scheduler['no_aug'])
    if period is not None and end is not None and period == end - begin:
        scheduler['T_max'] = scheduler['end'] - scheduler.get('begin', 0)
    elif period is not None and period == end:  # YOLOX, which begins behind a warm-up
        scheduler['T_max'] = scheduler['end']
    elif isinstance(period, int):
        scheduler['T_max'] = max(1, round(period * new / old))
