# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What is trained for a measurement: the detector of a config, and its optimiser."""

import copy

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope

from deim_mmdet.engine.recipe import find_hook


def build_detector(config: Config, device: str = 'cpu') -> nn.Module:
    """The detector of a config, with random weights, in training mode.

    Images keep their size: every step does the same. Channels are last where the config trains so.
    """
    init_default_scope(config.get('default_scope', 'mmdet'))
    cfg = copy.deepcopy(config.model)
    cfg.data_preprocessor.batch_augments = None
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    model.init_weights()
    if find_hook(config, 'ChannelsLastHook'):
        model.to(memory_format=torch.channels_last)
    return model.to(device).train()


def build_optimizer(model: nn.Module, config: Config, amp: bool) -> OptimWrapper:
    """The optimiser of a config; in float32, or with the mixed precision of the config."""
    cfg = copy.deepcopy(config.optim_wrapper)
    if not amp:
        cfg.type = 'OptimWrapper'
        cfg.pop('dtype', None)
    return build_optim_wrapper(model, cfg)


def dtype_of(optim_wrapper: OptimWrapper) -> torch.dtype:
    """What a step computes in: by mmengine's ``AmpOptimWrapper``, ours, or one without mixed
    precision."""
    if hasattr(optim_wrapper, 'cast_dtype'):
        return optim_wrapper.cast_dtype or torch.float16  # None: PyTorch's default on GPUs
    return getattr(optim_wrapper, 'dtype', torch.float32)
