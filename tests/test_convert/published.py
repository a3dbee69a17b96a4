# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Published checkpoints with every key, and weights of noise, from the tables of the fixtures."""

from pathlib import Path

import torch

from tests.fixtures import fill

FIXTURES = Path(__file__).parents[1] / 'fixtures'
TABLE_HW = (256, 256)  # input size of the tables

# table -> name of its family
TABLES = {
    'deim_hgnetv2_n': 'D-FINE / DEIM-D-FINE',
    'dfine_hgnetv2_n': 'D-FINE / DEIM-D-FINE',
    'deim_r18vd_120e': 'RT-DETRv2 / DEIM-RT-DETRv2',
    'rtdetrv2_r18vd_120e': 'RT-DETRv2 / DEIM-RT-DETRv2',
    'rtdetr_r18vd_6x': 'RT-DETR',
    'yolov8n': 'YOLOv8',
}


def published_state(table, seed=0):
    """Weights of noise under the names of a table, architecture constants included."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape, dtype in fill.read_tsv(FIXTURES / f'{table}.tsv'):
        noise = torch.rand(shape, generator=generator)
        state[key] = (noise if dtype == 'torch.float32' else noise * 9).to(
            getattr(torch, dtype.split('.')[1])
        )
    for prefix in ('decoder.', 'decoder.decoder.'):  # what D-FINE-N is built with
        if f'{prefix}up' in state:
            state[f'{prefix}up'] = torch.tensor([0.5])
            state[f'{prefix}reg_scale'] = torch.tensor([4])
    return state


def published_checkpoint(table):
    """A file as the methods' own repositories write it; the trained weights are other ones."""
    ema = published_state(table)
    return dict(
        model=published_state(table, seed=1),
        ema=dict(module=ema, updates=7),
        last_epoch=11,
        date='2024-12-04',
    )
