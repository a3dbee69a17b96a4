# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The second stage of DEYO in two processes, of which one never has an object."""

import os
import subprocess
import sys

import pytest
import torch

from tests.test_models.deyo_runs import FROZEN, build_stage_one, save_stage_one
from tests.test_models.parity import ROOT


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """Results of both ranks; one that waits for the other fails by the timeout."""
    folder = tmp_path_factory.mktemp('ranks')
    stage_one = save_stage_one(folder / 'yolov8.pth')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    program = ROOT / 'tests/test_models/deyo_two_ranks_program.py'
    environment = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.run(
        [*launcher, str(program), str(folder), stage_one],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


def test_both_ranks_have_the_same_gradients_and_weights(ranks):
    assert not any(rank['searches_for_unused'] for rank in ranks)
    first, second = ranks
    for step, (ours, theirs) in enumerate(zip(first['gradients'], second['gradients'])):
        assert ours.keys() == theirs.keys()
        # the backbone has gradients in the epoch in which it is trained, and only then
        assert any(name.startswith(FROZEN) for name in ours) == (step == 1)
        for name, gradient in ours.items():
            assert torch.equal(gradient, theirs[name]), (step, name)
        assert sum(gradient.abs().sum() > 0 for gradient in ours.values()) > 100
    for name, weight in first['trained'].items():
        assert torch.equal(weight, second['trained'][name]), name


def test_losses_have_the_same_keys_and_are_finite(ranks):
    keys = [[list(losses) for losses in rank['losses']] for rank in ranks]
    assert keys[0] == keys[1] and len(keys[0]) == 2
    values = torch.tensor([list(losses.values()) for rank in ranks for losses in rank['losses']])
    assert values.isfinite().all()
    without_objects = ranks[0]['losses'][0]
    assert without_objects['loss_cls'] > 0
    assert without_objects['loss_bbox'] == without_objects['dn_loss_cls'] == 0


def test_frozen_tensors_are_the_same_bits(ranks):
    stage_one = build_stage_one().state_dict()
    for rank in ranks:
        before, after, thawed = rank['frozen']
        assert sum('running' in key for key in before) > 60
        for key in before:
            assert torch.equal(before[key], stage_one[key]), key
            assert torch.equal(after[key], before[key]), key
        changed = [key for key in after if not torch.equal(thawed[key], after[key])]
        assert any('running_mean' in key for key in changed)
        assert any('conv.weight' in key for key in changed)
