# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """Results of both ranks; one that waits for the other fails by the timeout."""
    folder = tmp_path_factory.mktemp('ranks')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    program = ROOT / 'tests' / 'test_engine' / 'freeze_two_ranks_program.py'
    environment = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.run(
        [*launcher, str(program), str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


@pytest.mark.parametrize('run', ['whole', 'resumed'])
def test_both_ranks_have_the_same_weights(ranks, run):
    for key in ('trained', 'average'):
        for first, second, whole in zip(
            ranks[0][run][key], ranks[1][run][key], ranks[0]['whole'][key]
        ):
            assert torch.equal(first, second) and torch.equal(first, whole)


def test_frozen_epochs_change_no_bit(ranks):
    first, second = (rank['whole']['backbones'] for rank in ranks)
    same = [all(map(torch.equal, before, after)) for before, after in zip(first, first[1:])]
    assert same == [True, True, False]
    # each rank had statistics of its own; frozen ones are those that checkpoints hold
    same = [all(map(torch.equal, ours, others)) for ours, others in zip(first, second)]
    assert same == [False, True, True, False]


def test_only_the_last_wrapper_is_left(ranks):
    """A wrapper that lived on would reduce every gradient a second time."""
    # of epochs 0; 1 and 2; 3
    assert ranks[0]['whole']['alive'] == [False, False, False, True]
