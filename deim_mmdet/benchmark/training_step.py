# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A training step of a detector of this package whose phases are timed."""

import gc
import statistics
from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from deim_mmdet.models.dense_heads.rtdetr_head import RTDETRHead

from .from_config import build_detector, build_optimizer
from .phase_clock import PhaseClock
from .synthetic_batch import synthetic_batch

PHASES = ('forward', 'matching', 'losses', 'backward', 'optimiser', 'rest')

# Standard deviation that is given to weights that begin at zero.
SMALL_STD = 0.05


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
    batch = synthetic_batch(
        options.batch_size, options.hw, options.objects, model.bbox_head.num_classes
    )
    return TrainingStep(model, build_optimizer(model, config, options.amp), batch)


def build_model(config: Config, device: str) -> nn.Module:
    """:func:`build_detector`, with weights whose layers do not all predict the same.

    Raises:
        ValueError: The detector has no set-prediction head of this package.
    """
    model = build_detector(config, device)
    if not isinstance(getattr(model, 'bbox_head', None), RTDETRHead):
        raise ValueError(
            f'{config.model.type} has no head with set prediction of this package: a step is timed '
            'of RTDETR, DFINE and DEYO, with DEIM or without'
        )
    leave_the_beginning(model)
    return model


def leave_the_beginning(model: nn.Module) -> None:
    """Give values to weights that begin at zero: until then all layers predict the same."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=SMALL_STD)


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
