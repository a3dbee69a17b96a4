# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Detectors that find something: the weights of the fixtures, or random heads that spread scores.

Exports are shared between tests, since each takes seconds.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Tuple

import numpy as np
import onnxruntime
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from deim_mmdet.deploy import EndToEnd, ExportOptions, describe, export_onnx, raw_predictions
from deim_mmdet.models.detectors import YOLOv8
from tests.fixtures import fill
from tests.test_models.parity import ROOT, Case

ATTO = 'deim/deim_dfine_hgnetv2-atto_digits'
DEYO_N = 'deyo/deyo_yolov8-n_8xb2-96e_coco'
YOLOV8 = 'yolov8/yolov8_atto_digits'


def config_of(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def letterbox_config() -> Config:
    """YOLOv8 with images that keep their aspect, as on COCO."""
    config = config_of(YOLOV8)
    pipeline = config_of('_base_/datasets/coco_yolov8').test_pipeline
    for step in pipeline:
        if step.type == 'Resize':
            step.scale = config.image_hw[::-1]
        elif step.type == 'Pad':
            step.size = config.image_hw[::-1]
    config.test_dataloader.dataset.pipeline = pipeline
    return config


@cache
def detector_of(name: str) -> torch.nn.Module:
    """By the name of a fixture or of a config."""
    if name == 'deyo_n':
        return Case(name, case=(name, DEYO_N)).model.eval()
    if not name.count('/'):
        return Case(name).model.eval()
    return random_detector(config_of(name))


def random_detector(config: Config, hw: Tuple[int, int] = (192, 192)) -> torch.nn.Module:
    """Random weights; class scores and boxes of images of ``hw`` differ from query to query."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    if 'init_cfg' in config.model.backbone:
        config.model.backbone.init_cfg = None
    detector = MODELS.build(deepcopy(config.model))  # mmdet writes into it
    detector.init_weights()
    for key, parameter in detector.named_parameters():
        if 'cls_branch' in key or 'fc_cls' in key:
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.0)
        elif 'reg_branch' in key or 'fc_reg' in key or 'sampling_offsets' in key:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return settle(detector.eval(), hw)


@torch.no_grad()
def settle(detector: torch.nn.Module, hw: Tuple[int, int]) -> torch.nn.Module:
    """Norms see images once, and class logits spread: else values grow from layer to layer, and all
    queries have about the same scores.
    """
    # cells see less of an image than queries do: images of another kind reach further
    reach = 4 if isinstance(detector, YOLOv8) else 1

    def see(norm, args):
        dims = [dim for dim in range(args[0].ndim) if dim != 1]
        norm.running_mean.copy_(args[0].mean(dims))
        norm.running_var.copy_(args[0].var(dims))

    def spread(branch, args, logits):
        scale = reach * logits.std()
        shift = -1 - logits.mean() / scale
        branch.weight /= scale
        branch.bias.copy_(branch.bias / scale + shift)
        return logits / scale + shift

    hooks = []
    for name, module in detector.named_modules():
        if hasattr(module, 'running_mean'):
            hooks.append(module.register_forward_pre_hook(see))
        elif 'cls' in name and getattr(module, 'bias', None) is not None:
            hooks.append(module.register_forward_hook(spread))
    raw_predictions(detector, torch.from_numpy(images(hw, 4)))
    for hook in hooks:
        hook.remove()
    return detector


def images(hw: Tuple[int, int], count: int = 1, seed: int = 0) -> np.ndarray:
    """Shape (count, 3, H, W), float32, in [0, 1)."""
    return np.concatenate([fill.image(*hw, seed + i) for i in range(count)]).astype(np.float32)


def photograph(height: int = 150, width: int = 240) -> np.ndarray:
    """An image as users have it: uint8, shape (height, width, 3), of any size."""
    return (images((height, width))[0].transpose(1, 2, 0) * 255).astype(np.uint8)


def export(detector, config: Config, path: Path, options: ExportOptions):
    """The model that was written, and a session that runs it."""
    model = export_onnx(detector, path, options, describe(detector, config, options))
    return model, onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def run_pytorch(detector, options: ExportOptions, *inputs: np.ndarray):
    module = EndToEnd(detector, options.input_format, options.hw, candidates=options.candidates)
    with torch.no_grad():
        return [value.numpy() for value in module(*map(torch.from_numpy, inputs))]
