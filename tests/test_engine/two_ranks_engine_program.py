# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One rank of test_engine_on_two_ranks.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import deim_mmdet  # noqa: F401
from deim_mmdet.engine import NonFiniteLossHook, TwoStageEndHook, WarmupEMAHook
from tests.test_engine.toy import ToyModel, make_runner

DISTRIBUTED = dict(
    launcher='pytorch',
    env_cfg=dict(dist_cfg=dict(backend='gloo')),
    cfg=dict(model_wrapper_cfg=dict(type='AnyDeviceDistributedDataParallel')),
)


def two_stages(folder):
    """Weights and average at the end; in epochs 2 and 3 the best, of epoch 0, is loaded."""
    ema = WarmupEMAHook(decay=0.99, max_window_share=1.0)
    runner = make_runner(
        folder,
        5,
        scores=[0.5, 0.1, 0.3, 0.2, 0.1],
        custom_hooks=[ema, TwoStageEndHook(2, restart_decay=0.98, decay_step=0.01)],
        optim_wrapper=dict(
            constructor='RuleOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),
            paramwise_cfg=dict(rules=[dict(pattern='^backbone', lr_mult=0.5)]),
        ),
        **DISTRIBUTED,
    )
    runner.train()
    return dict(
        trained=[p.detach() for p in runner.model.module.parameters()],
        average=list(ema.ema_model.module.parameters()),
        decay=ema.ema_model.decay,
        rates=[group['lr'] for group in runner.optim_wrapper.optimizer.param_groups],
    )


def loss_of_rank_1_is_nan(folder):
    """What each rank stops with."""
    model = ToyModel()
    if dist.get_rank() == 1:
        model.poison = (1, float('nan'))
    runner = make_runner(folder, 2, model=model, custom_hooks=[NonFiniteLossHook()], **DISTRIBUTED)
    try:
        runner.train()
    except FloatingPointError as error:
        return str(error)


if __name__ == '__main__':
    target = Path(sys.argv[1])
    results = dict(
        stages=two_stages(target / 'stages'), message=loss_of_rank_1_is_nan(target / 'nan')
    )
    torch.save(results, target / f'rank{dist.get_rank()}.pt')
    dist.barrier()
    dist.destroy_process_group()
