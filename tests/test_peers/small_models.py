# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Models with every kind of layer of the published sizes, in a few channels."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

BASES = Path(__file__).parents[2] / 'configs/_base_/models'
CLASSES = tuple(f'kind {i}' for i in range(7))

DFINE = dict(
    num_queries=20,
    backbone=dict(
        stem_channels=(8, 16),
        stages=(
            (8, 16, 1, 2, 3, 0, 0),
            (8, 32, 1, 2, 3, 1, 0),
            (16, 48, 2, 2, 5, 1, 1),
            (16, 64, 1, 2, 5, 1, 1),
        ),
        use_lab=True,
        frozen_stages=-1,
        freeze_norm=False,
    ),
    neck=dict(in_channels=[32, 48, 64], embed_dims=48, ffn_channels=96, expansion=0.5),
    decoder=dict(embed_dims=32, num_layers=3, ffn_channels=64, reg_scale=8.0),
    bbox_head=dict(num_classes=len(CLASSES)),
)
RTDETR = dict(
    num_queries=20,
    backbone=dict(depth=18, frozen_stages=-1, freeze_norm=False),
    neck=dict(in_channels=[128, 256, 512], embed_dims=48, ffn_channels=96, expansion=0.5),
    decoder=dict(embed_dims=32, num_layers=2, ffn_channels=64, query_pos_dims=(64,)),
    bbox_head=dict(num_classes=len(CLASSES)),
)
DISCRETE = dict(decoder=dict(RTDETR['decoder'], sampling='discrete'))
DEIM_RTDETR = dict(RTDETR, decoder=dict(RTDETR['decoder'], query_pos_dims=(48, 40)))
# name: (base, small, model_type there)
CASES = {
    'dfine': ('dfine_hgnetv2-l', DFINE, None),
    'rtdetr': ('rtdetrv2_r50vd', RTDETR, 'rt_detr'),
    'rtdetrv2': ('rtdetrv2_r50vd', RTDETR, None),
    'rtdetrv2-discrete': ('rtdetrv2_r50vd', dict(RTDETR, **DISCRETE), None),
}
# with the code in the folder
DEIM_CASES = {
    'deim-dfine': ('deim_dfine_hgnetv2-l', DFINE),
    'deim-rtdetrv2': ('deim_rtdetrv2_r50vd', DEIM_RTDETR),
}


def small_config(base, small):
    init_default_scope('mmdet')
    config = Config.fromfile(BASES / f'{base}.py')
    config.merge_from_dict(dict(model=small))
    return config


def random_weights(state):
    """Nothing is zero, no two layers are alike, activations stay of order one."""
    generator = torch.Generator().manual_seed(2)
    return {name: random_tensor(name, tensor, generator) for name, tensor in state.items()}


def random_tensor(name, tensor, generator):
    if name.endswith(('up', 'reg_scale', 'points_scale')):  # constants
        return tensor
    if not tensor.is_floating_point():  # counters
        return torch.full_like(tensor, 7)
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith('running_var'):
        return 1 + 0.2 * noise.abs()
    if name.endswith('sampling_offsets.bias'):
        return 2 * noise
    if name.endswith(('bias', 'running_mean')):
        return 0.1 * noise
    if tensor.ndim == 1:
        return 1 + 0.1 * noise
    dims = tuple(range(1, tensor.ndim))
    gain = 1.4 if tensor.ndim == 4 else 1  # of rectifiers
    # centred: behind rectifiers every cell would look alike otherwise
    return gain * (noise - noise.mean(dims, keepdim=True)) / tensor[0].numel() ** 0.5
