# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest
import torch

from deim_mmdet.compat import cpu_distributed

LAUNCHED = dict(
    TORCHELASTIC_RUN_ID='none', RANK='0', LOCAL_RANK='0', WORLD_SIZE='2', MASTER_PORT='29500'
)


@pytest.fixture
def calls(monkeypatch):
    """The environment of one of two ranks; calls of init_process_group are noted, not made."""
    calls = []
    monkeypatch.setattr(cpu_distributed.dist, 'init_process_group', calls.append)
    monkeypatch.setattr(cpu_distributed, 'get_device', lambda: 'cpu')
    monkeypatch.setenv(cpu_distributed.OWNER, str(os.getpid()))
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    return calls


def test_a_rank_joins_the_group(calls, monkeypatch):
    monkeypatch.delenv(cpu_distributed.OWNER)
    assert cpu_distributed.init_cpu_process_group()
    assert calls == ['gloo']
    assert os.environ[cpu_distributed.OWNER] == str(os.getpid())


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('WORLD_SIZE', '1'),  # alone
        ('RANK', None),  # not launched
        ('TORCHELASTIC_RUN_ID', None),  # a cluster's variables, not torchrun's
        (cpu_distributed.OWNER, '1'),  # a program that a rank has started
    ],
)
def test_others_do_not(calls, monkeypatch, name, value):
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    assert not cpu_distributed.init_cpu_process_group()
    assert calls == []


def test_with_an_accelerator_mmengine_does_it(calls, monkeypatch):
    monkeypatch.setattr(cpu_distributed, 'get_device', lambda: 'cuda')
    assert not cpu_distributed.init_cpu_process_group()
    assert calls == []


def test_an_existing_group_is_kept(calls, monkeypatch):
    monkeypatch.setattr(cpu_distributed.dist, 'is_initialized', lambda: True)
    assert not cpu_distributed.init_cpu_process_group()
    assert calls == []


def test_workers_do_not_join(calls, monkeypatch):
    monkeypatch.setattr(cpu_distributed.multiprocessing, 'parent_process', lambda: object())
    assert not cpu_distributed.init_cpu_process_group()
    assert calls == []


TWO_RANKS = '''
import sys
import deim_mmdet
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.tensor([1.0 + index])


class Slope(BaseModel):
    """Loss w * x: the gradient is x, 1 on rank 0 and 2 on rank 1."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x, mode='loss'):
        return dict(loss=(self.w * x).sum())


runner = Runner(
    model=Slope(),
    work_dir=sys.argv[1],
    train_dataloader=dict(
        dataset=Data(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
    ),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    train_cfg=dict(by_epoch=True, max_epochs=1),
    launcher='pytorch',
    cfg=dict(model_wrapper_cfg=dict(type='AnyDeviceDistributedDataParallel')),
)
assert get_world_size() == 2
runner.train()
torch.save(runner.model.module.w.detach(), f'{sys.argv[1]}/rank{get_rank()}.pt')
'''


def test_two_ranks_share_their_gradients(tmp_path):
    """SGD with the mean gradient (1 + 2) / 2 and rate .1: 1 - .15 on both ranks."""
    (tmp_path / 'two_ranks.py').write_text(TWO_RANKS)
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.run(
        [*launcher, str(tmp_path / 'two_ranks.py'), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f'rank{rank}.pt'), torch.tensor(0.85))
