# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A training step of a detector of this package whose phases are timed."""

import copy
import gc
import statistics
from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope

from deim_mmdet.models.dense_heads.rtdetr_head import RTDETRHead

from .phase_clock import PhaseClock
from .synthetic_batch import synthetic_batch

PHASES = ('forward', 'matching', 'losses', 'backward', 'optimiser', 'rest')

# Of weights that begin at zero.
STIRRED = 0.05


class TrainingStep:
    """What mmengine's training loop does with a batch that lies on the device already.

    Args:
        model (BaseDetector): Detector with a set-prediction head of this package.
        optim_wrapper (OptimWrapper): For its parameters.
        batch (dict): See :func:`synthetic_batch`.

    Attributes:
        clock (PhaseClock): With the ``PHASES``; 'rest' is what belongs to no other.
        data (dict): Images, shape (bs, 3, H, W), and data samples, as the model takes them.
    """

    def __init__(self, model: nn.Module, optim_wrapper: OptimWrapper, batch: dict) -> None:
        self.model = model  # may be wrapped for several processes later
        self.parse_losses = model.parse_losses
        self.optim_wrapper = optim_wrapper
        self.data = model.data_preprocessor(batch, training=True)
        self.clock = PhaseClock(self.data['inputs'].device)
        self.clock.wrap(model, 'loss', 'forward')
        self.clock.wrap(model.bbox_head, 'loss', 'losses')
        self.clock.wrap(model.bbox_head, 'assign', 'matching')
        self.clock.wrap(optim_wrapper, 'backward', 'backward')
        self.clock.wrap(optim_wrapper, 'step', 'optimiser')

    def __call__(self) -> None:
        with self.clock.measure('rest'):
            with self.optim_wrapper.optim_context(self.model):
                losses = self.model(**self.data, mode='loss')
            loss, _ = self.parse_losses(losses)
            self.optim_wrapper.update_params(loss)


@dataclass(frozen=True)
class StepOptions:
    """What a step is given.

    Attributes:
        hw (tuple[int, int]): Height and width of the images.
        batch_size (int): Images.
        objects (int): In each image.
        device (str): Where it runs.
        amp (bool): With the mixed precision of the config; float32 otherwise.
        seed (int): Of images, objects and weights.
    """

    hw: Tuple[int, int] = (640, 640)
    batch_size: int = 8
    objects: int = 60
    device: str = 'cpu'
    amp: bool = False
    seed: int = 0


def build_step(config: Config, options: StepOptions) -> TrainingStep:
    """A training step of a config on made-up images.

    Args:
        config (Config): With ``model`` and ``optim_wrapper``.
        options (StepOptions): What it is given.

    Raises:
        ValueError: See :func:`build_model`.
    """
    torch.manual_seed(options.seed)
    model = build_model(config, options.device)
    optim_cfg = copy.deepcopy(config.optim_wrapper)
    if not options.amp:
        optim_cfg.type = 'OptimWrapper'
        optim_cfg.pop('dtype', None)
    batch = synthetic_batch(
        options.batch_size, options.hw, options.objects, model.bbox_head.num_classes
    )
    return TrainingStep(model, build_optim_wrapper(model, optim_cfg), batch)


def build_model(config: Config, device: str) -> nn.Module:
    """The detector of a config, with random weights, in training mode.

    Images keep their size: every step does the same. Channels are last where the config trains so.

    Raises:
        ValueError: The detector has no set-prediction head of this package.
    """
    init_default_scope(config.get('default_scope', 'mmdet'))
    cfg = copy.deepcopy(config.model)
    cfg.data_preprocessor.batch_augments = None
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    if not isinstance(getattr(model, 'bbox_head', None), RTDETRHead):
        raise ValueError(
            f'{config.model.type} has no head with set prediction of this package: a step is timed '
            'of RTDETR, DFINE and DEYO, with DEIM or without'
        )
    model.init_weights()
    leave_the_beginning(model)
    hooks = [*(config.get('default_hooks') or {}).values(), *(config.get('custom_hooks') or ())]
    if 'ChannelsLastHook' in [hook.get('type') for hook in hooks if isinstance(hook, dict)]:
        model.to(memory_format=torch.channels_last)
    return model.to(device).train()


def leave_the_beginning(model: nn.Module) -> None:
    """Give values to weights that begin at zero: until then all layers predict the same."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=STIRRED)


def take_turns(steps: Mapping[str, TrainingStep], warmup: int, count: int) -> None:
    """A step of one after a step of the other: A B A B ... What else happens on the machine
    meanwhile happens to all alike.

    Args:
        steps (Mapping[str, TrainingStep]): What to run; each has a ``clock``.
        warmup (int): Steps of each before any counts.
        count (int): Steps of each that count.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
        step.clock.seconds.clear()
    gc.collect()
    for _ in range(count):
        for step in steps.values():
            step()


def median_of_phases(step: TrainingStep) -> Dict[str, float]:
    """Median seconds of every phase, and of the ``step`` as a whole."""
    medians = {phase: statistics.median(times) for phase, times in step.clock.seconds.items()}
    return dict(medians, step=statistics.median(step.clock.totals()))


def ratio_of_neighbours(here: TrainingStep, there: TrainingStep) -> float:
    """Median, over the turns, of how many times as long the step here took as the one there that
    came next: what slows the machine down for a while slows both."""
    return statistics.median(a / b for a, b in zip(here.clock.totals(), there.clock.totals()))
