# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where both ranks left their results; one that waits for the other fails by the timeout."""
    folder = tmp_path_factory.mktemp('ranks')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    program = ROOT / 'tests' / 'test_engine' / 'two_ranks_engine_program.py'
    environment = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.run(
        [*launcher, str(program), str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


@pytest.fixture
def ranks(folder):
    return [torch.load(folder / f'rank{rank}.pt', weights_only=False) for rank in range(2)]


def test_both_ranks_go_back_to_the_same_weights(ranks):
    first, second = (rank['stages'] for rank in ranks)
    for key in ('trained', 'average'):
        for a, b in zip(first[key], second[key]):
            assert torch.equal(a, b)
    # epoch 2 begins the second stage, 0.3 is not better than 0.5 and sends it back
    assert first['decay'] == second['decay'] == pytest.approx(0.97)
    assert first['rates'] == second['rates'] == pytest.approx([0.005, 0.01])


def test_both_ranks_stop_when_one_has_a_nan(folder, ranks):
    first, second = (rank['message'] for rank in ranks)
    assert 'iteration 1, rank 0' in first and 'a loss of another rank' in first
    assert 'iteration 1, rank 1' in second and 'loss_b = nan' in second and '.jpg' in second
    saved = torch.load(folder / 'nan' / 'before_non_finite_loss.pth', weights_only=False)
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
