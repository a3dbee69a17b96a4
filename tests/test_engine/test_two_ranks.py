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
    """Gradients of both ranks; a rank that waits for ever for the other fails by the timeout."""
    folder = tmp_path_factory.mktemp('ranks')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    process = subprocess.run(
        [*launcher, str(ROOT / 'tests' / 'test_engine' / 'two_ranks_program.py'), str(folder)],
        env={
            **os.environ,
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


@pytest.mark.parametrize('case', ['recipe', 'plain'])
def test_a_rank_without_objects_gets_the_same_gradients(ranks, case):
    first, second = ranks[0][case], ranks[1][case]
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert gradient is not None and gradient.isfinite().all(), name
        assert torch.equal(gradient, second[name]), name
    assert sum(gradient.abs().sum() for gradient in first.values()) > 0


def test_two_ranks_are_one_process_with_all_images(ranks):
    """Losses are divided by counts over all ranks, so the mean of the gradients is the whole's."""
    assert ranks[0]['plain'].keys() == ranks[0]['one process'].keys()
    for name, expected in ranks[0]['one process'].items():
        difference = (ranks[0]['plain'][name] - expected).norm()
        assert difference <= 1e-4 * expected.norm().clamp(min=1e-6), name
