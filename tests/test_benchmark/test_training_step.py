# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config

from deim_mmdet.benchmark.training_step import (
    PHASES,
    StepOptions,
    build_model,
    build_step,
    median_of_phases,
    take_turns,
)
from tests.test_benchmark.conftest import CONFIGS

OPTIONS = StepOptions((96, 96), batch_size=2, objects=3)


def test_phases_add_up_and_weights_move(small_dfine):
    step = build_step(small_dfine, OPTIONS)
    before = [p.clone() for p in step.model.parameters()]
    take_turns({'here': step}, warmup=1, count=2)
    assert set(step.clock.seconds) == set(PHASES)
    assert all(len(seconds) == 2 for seconds in step.clock.seconds.values())
    medians = median_of_phases(step)
    # the median of two is their mean
    assert medians['step'] == pytest.approx(sum(medians[phase] for phase in PHASES))
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters()))
    assert len(step.data['data_samples'][0].gt_instances) == 3


def test_turns_alternate():
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name
            self.clock = type('Clock', (), dict(seconds={}))

        def __call__(self):
            order.append(self.name)

    take_turns({name: Fake(name) for name in 'ab'}, warmup=2, count=3)
    assert ''.join(order) == 'aabb' + 'ababab'


def test_channels_are_last_where_the_config_trains_so(small_dfine):
    def is_last():
        weight = build_model(small_dfine, 'cpu').backbone.stem.stem1.conv.weight
        return weight.is_contiguous(memory_format=torch.channels_last)

    small_dfine.default_hooks.pop('channels_last', None)
    assert not is_last()
    small_dfine.default_hooks.channels_last = dict(type='ChannelsLastHook')
    assert is_last()


def test_other_heads_are_refused():
    config = Config.fromfile(CONFIGS / 'yolov8/yolov8_atto_digits.py')
    with pytest.raises(ValueError, match='YOLOv8 has no head with set prediction of this package'):
        build_step(config, OPTIONS)
