# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One rank of test_staged_freeze_on_two_ranks.py."""

import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook

import deim_mmdet  # noqa: F401
from deim_mmdet.engine import StagedFreezeHook, WarmupEMAHook
from tests.test_engine.toy import make_runner


class Watch(Hook):
    """Notes the backbone at the end of each epoch, and the wrappers of each."""

    priority = 'LOWEST'

    def __init__(self):
        self.backbones, self.wrappers = [], []

    def after_train_epoch(self, runner):
        module = runner.model.module
        self.backbones.append([t.clone() for t in module.backbone.state_dict().values()])
        self.wrappers.append(weakref.ref(runner.model))


def train(folder, epochs, **cfg):
    """Epochs 1 and 2 are frozen; the wrapper knows nothing of unused parameters."""
    watch = Watch()
    # constants that do not depend on the length of the run
    ema = WarmupEMAHook(decay=0.5, warmup=0, max_window_share=1.0)
    runner = make_runner(
        folder,
        epochs,
        custom_hooks=[StagedFreezeHook(['backbone'], begin=1, end=3), ema, watch],
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        cfg=dict(model_wrapper_cfg=dict(type='AnyDeviceDistributedDataParallel')),
        **cfg,
    )
    runner.train()
    return dict(
        trained=[p.detach() for p in runner.model.module.parameters()],
        average=list(ema.ema_model.module.parameters()),
        backbones=watch.backbones,
        alive=[wrapper() is not None for wrapper in watch.wrappers],
    )


if __name__ == '__main__':
    target = Path(sys.argv[1])
    whole = train(target / 'whole', 4)
    train(target / 'part', 2)
    path = str(target / 'part/epoch_2.pth')
    resumed = train(target / 'rest', 4, resume=True, load_from=path)
    torch.save(dict(whole=whole, resumed=resumed), target / f'rank{dist.get_rank()}.pt')
    dist.barrier()
    dist.destroy_process_group()
