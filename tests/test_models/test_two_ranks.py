# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Two processes, one of which has no object in its batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn.parallel import DistributedDataParallel

import deim_mmdet  # noqa: F401
from tests.test_models.samples import data_samples

CONFIGS = Path(__file__).parents[2] / 'configs'
# config: loss terms
TERMS = {'deim/deim_dfine_hgnetv2-atto_digits': 37, 'yolov8/yolov8_atto_digits': 3}
COUNTS = ((0, 0), (3, 4))  # objects per image of each rank


@pytest.mark.parametrize('config', TERMS)
def test_a_rank_without_objects_neither_hangs_nor_differs(tmp_path, config):
    mp.spawn(train_a_step, args=(str(tmp_path), config), nprocs=2)  # pytest's timeout ends a hang
    keys, counts, gradients = zip(*(torch.load(tmp_path / f'{rank}.pt') for rank in range(2)))
    assert keys[0] == keys[1]
    assert len(keys[0]) == TERMS[config]
    # normalisers are the means over both ranks: 7 objects on two ranks; YOLOv8 counts scores
    assert counts[0] == counts[1] == ([3.5] if 'deim' in config else [])
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=0)
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0].values())


def train_a_step(rank: int, folder: str, config: str):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=2)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIGS / f'{config}.py').model).train()
    normalisers = []
    assign = getattr(model.bbox_head, 'assign', None)

    def assign_and_note(*args):
        assignment = assign(*args)
        normalisers.append(assignment.num_cls.item())
        return assignment

    if assign:
        model.bbox_head.assign = assign_and_note
    # all parameters take part in every step, so no search for unused ones
    parallel = DistributedDataParallel(model, find_unused_parameters=False)
    torch.manual_seed(rank)
    samples = data_samples(COUNTS[rank], (64, 96), num_classes=10)
    losses = parallel(torch.rand(2, 3, 64, 96), samples, mode='loss')
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    torch.save((list(losses), normalisers, gradients), f'{folder}/{rank}.pt')
    dist.destroy_process_group()
