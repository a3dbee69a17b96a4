# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""One rank of test_deyo_on_two_ranks.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import deim_mmdet  # noqa: F401
from tests.test_models.deyo_runs import Images, Watch, make_runner, module_of


def main(folder: Path, stage_one: str):
    """A frozen epoch and one in which all is trained; rank 0 never has an object."""
    watch = Watch()
    runner = make_runner(
        folder / 'run',
        2,
        dataset=Images((0, 2, 0, 3)),
        shuffle=False,  # rank 0 gets the even ones
        freeze=dict(end=1),
        hooks=[watch],
        load_from=stage_one,
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        cfg=dict(
            model_wrapper_cfg=dict(type='AnyDeviceDistributedDataParallel'),
            sync_bn='torch',  # as the config says; on the CPU the wrapper takes it back
        ),
    )
    runner.train()
    result = dict(
        searches_for_unused=runner.model.find_unused_parameters,
        losses=watch.losses,
        gradients=watch.gradients,
        frozen=watch.frozen,
        trained={n: p.detach() for n, p in module_of(runner).named_parameters()},
    )
    torch.save(result, folder / f'rank{dist.get_rank()}.pt')
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2])
