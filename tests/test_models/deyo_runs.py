# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Second stages of DEYO on a few small rectangles, by a real Runner."""

import copy
from typing import Sequence

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from tests.test_models.parity import ROOT
from tests.test_models.samples import data_samples

DIGITS = tuple('0123456789')
HW = (64, 96)
FROZEN = ('backbone.', 'neck.')


def build(path, seed=0, **changes):
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    cfg = Config.fromfile(ROOT / f'configs/{path}.py').model
    for key, value in changes.items():
        part, _, name = key.partition('.')
        cfg[part][name] = value
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    with torch.no_grad():  # statistics like those of a trained model
        for name, buffer in model.named_buffers():
            if 'running' in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def build_stage_one():
    return build('yolov8/yolov8_atto_digits')


def build_stage_two(seed=1):
    return build('deyo/deyo_yolov8-atto_digits', seed)


def save_stage_one(path, model=None):
    weights = (model or build_stage_one()).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=DIGITS))), path)
    return str(path)


class Images(Dataset):
    """Images of noise, with so many objects each."""

    def __init__(self, counts: Sequence[int] = (0, 1, 2, 3), classes=DIGITS):
        self.counts = counts
        self.metainfo = dict(classes=classes)

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *HW), generator=generator).byte()
        return dict(inputs=image, data_samples=data_samples([self.counts[index]], HW, 10)[0])


class Watch(Hook):
    """Notes losses and gradients of every step, and the frozen tensors after every epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.losses, self.gradients, self.frozen = [], [], []

    def before_train(self, runner):
        step = runner.optim_wrapper.step

        def note_and_step(**kwargs):
            named = module_of(runner).named_parameters()
            self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
            step(**kwargs)

        runner.optim_wrapper.step = note_and_step
        self.frozen.append(frozen_part(module_of(runner).state_dict()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({key: value.item() for key, value in outputs.items()})

    def after_train_epoch(self, runner):
        self.frozen.append(frozen_part(module_of(runner).state_dict()))


def module_of(runner):
    return getattr(runner.model, 'module', runner.model)


def frozen_part(state):
    return {key: value.clone() for key, value in state.items() if key.startswith(FROZEN)}


def make_runner(
    folder, epochs, dataset=None, denoising=True, freeze=None, hooks=(), shuffle=True, **changes
):
    """A Runner with the optimiser and the hooks of the config.

    Args:
        folder (Path): Its work_dir.
        epochs (int): Epochs of the run.
        dataset (Dataset, optional): Defaults to None: :class:`Images`.
        denoising (bool): Without where a run is resumed: its random numbers are not. Defaults to
            True.
        freeze (dict, optional): Arguments of ``StagedFreezeHook`` beside those of the config.
        hooks (Sequence[Hook]): More hooks.
        shuffle (bool): Of the sampler. Defaults to True.
        changes: Arguments of the Runner.
    """
    cfg = Config.fromfile(ROOT / 'configs/deyo/deyo_yolov8-atto_digits.py')
    model = build_stage_two()
    if not denoising:
        model.denoising = None
    changes.setdefault('optim_wrapper', cfg.optim_wrapper)
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=dataset or Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(
            staged_freeze=dict(cfg.default_hooks.staged_freeze, **(freeze or {})),
            load_weights=cfg.default_hooks.load_weights,
            checkpoint=dict(type='CheckpointHook', interval=1),
            # constants that do not depend on the length of the run
            ema=dict(type='WarmupEMAHook', decay=0.5, warmup=0, max_window_share=1.0),
        ),
        custom_hooks=list(hooks),
        default_scope='mmdet',
        experiment_name=f'{folder.name}_{id(model)}',
        randomness=dict(seed=0),
        log_level='WARNING',
        **changes,
    )
