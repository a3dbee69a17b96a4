# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from deim_mmdet.engine import LinearWarmupLR
from tests.test_engine.test_flat_cosine_lr import LrRecorder
from tests.test_engine.toy import ITERS_PER_EPOCH, make_runner

SCHEDULE = dict(type='LinearWarmupLR', convert_to_iter_based=True, warmup=4, max_warmup_share=0.5)


@pytest.mark.parametrize(
    ('warmup', 'share', 'used'),
    [
        (4, 0.5, 4),
        (500, 0.25, 6),  # bounded: a quarter of 24 iterations
        (1, 1.0, 2),  # LinearLR takes two steps at least
    ],
)
def test_rises_linearly_and_stays(tmp_path, warmup, share, used):
    recorder = LrRecorder()
    schedule = dict(SCHEDULE, warmup=warmup, max_warmup_share=share)
    make_runner(tmp_path, 8, custom_hooks=[recorder], param_scheduler=schedule).train()
    expected = [0.01 * min(1, (t + 1) / used) for t in range(8 * ITERS_PER_EPOCH)]
    assert [recorder.lrs[t] for t in sorted(recorder.lrs)] == pytest.approx(expected)


def test_resume_in_the_middle(tmp_path):
    whole, resumed = LrRecorder(), LrRecorder()
    schedule = dict(SCHEDULE, warmup=5)
    make_runner(tmp_path, 4, custom_hooks=[whole], param_scheduler=schedule).train()
    path = str(tmp_path / 'epoch_1.pth')
    make_runner(
        tmp_path, 4, custom_hooks=[resumed], param_scheduler=schedule, load_from=path, resume=True
    ).train()
    assert min(resumed.lrs) == ITERS_PER_EPOCH
    for iteration, lr in resumed.lrs.items():
        assert lr == pytest.approx(whole.lrs[iteration])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(by_epoch=True), 'convert_to_iter_based=True'),
        (dict(end=10**9), 'length of the run'),
        (dict(warmup=0), 'warmup=0'),
        (dict(max_warmup_share=0), 'max_warmup_share=0'),
    ],
)
def test_refuses(changes, message):
    kwargs = dict(warmup=5, end=100, by_epoch=False)
    kwargs.update(changes)
    with pytest.raises(ValueError, match=message):
        LinearWarmupLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), **kwargs)
