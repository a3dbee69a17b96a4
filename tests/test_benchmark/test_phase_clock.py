# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch

from deim_mmdet.benchmark.phase_clock import PhaseClock


@pytest.fixture
def now():
    return SimpleNamespace(seconds=0.0)


@pytest.fixture
def clock(now):
    """Time stands still but for what a test adds to ``now.seconds``."""
    return PhaseClock(torch.device('cpu'), lambda: now.seconds)


def test_time_inside_another_phase_is_the_others_alone(clock, now):
    for _ in range(2):
        with clock.measure('outer'):
            now.seconds += 1
            for _ in range(3):
                with clock.measure('inner'):
                    now.seconds += 10
            now.seconds += 2
    assert clock.seconds == dict(outer=[3, 3], inner=[30, 30])
    assert clock.totals() == [33, 33]


def test_wrapped_methods_do_what_they_did(clock, now):
    class Sleeper:
        def sleep(self, seconds, result=None):
            now.seconds += seconds
            return result

    sleeper = Sleeper()
    clock.wrap(sleeper, 'sleep', 'sleep')
    assert sleeper.sleep(5, result='awake') == 'awake'
    assert clock.seconds == dict(sleep=[5])


def test_a_phase_that_fails_does_not_count(clock, now):
    with pytest.raises(KeyError), clock.measure('outer'), clock.measure('inner'):
        now.seconds += 1
        raise KeyError
    with clock.measure('next'):
        now.seconds += 2
    assert clock.seconds == dict(next=[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_a_gpu_is_read_by_its_own_clock():
    clock = PhaseClock(torch.device('cuda'))
    a = torch.rand(2048, 2048, device='cuda')
    with clock.measure('outer'), clock.measure('product'):
        for _ in range(20):
            a = a @ a
    assert clock.seconds['product'][0] > 10 * clock.seconds['outer'][0] > 0
