# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

from deim_mmdet.engine import SameConditionsHook


def draw():
    return random.random(), np.random.random(), torch.rand(()).item()


def batch_of(*image_ids, fill=1):
    return dict(
        inputs=[torch.full((3, 4, 4), fill, dtype=torch.uint8) for _ in image_ids],
        data_samples=[DetDataSample(metainfo=dict(img_id=i)) for i in image_ids],
    )


def test_what_is_drawn_depends_on_seed_and_step_alone():
    def draws(seed, begin, disturb):
        """In a run from step ``begin`` on: for the images of each step, and in the step."""
        runner = SimpleNamespace(iter=begin)
        hook, found = SameConditionsHook(seed), []
        hook.before_train_epoch(runner)
        for runner.iter in range(begin, 4):
            found.append(draw())
            hook.before_train_iter(runner, 0, batch_of(1))
            found.append(draw())
            for _ in range(disturb):
                draw()
            hook.after_train_iter(runner, 0)
        return found

    plain = draws(1, 0, disturb=0)
    assert len(set(plain)) == 4  # images and step share their numbers, steps do not
    assert draws(1, 0, disturb=3) == plain
    assert draws(1, 2, disturb=0) == plain[4:]  # resumed
    assert not set(draws(2, 0, disturb=0)) & set(plain)


@pytest.mark.parametrize(
    'batch, same_order, same_images',
    [
        (batch_of(1, 2), True, True),
        (batch_of(1, 2, fill=3), True, False),
        (batch_of(2, 1), False, True),
        (batch_of(12), False, False),
    ],
)
def test_check_sums(batch, same_order, same_images):
    hooks = SameConditionsHook(0), SameConditionsHook(0)
    for hook, inputs in zip(hooks, (batch_of(1, 2), batch)):
        hook.before_train_iter(SimpleNamespace(iter=0), 0, inputs)
    one, other = hooks
    assert (one.order_crc32 == other.order_crc32) == same_order
    assert (one.images_crc32 == other.images_crc32) == same_images


def test_weights_in_common_begin_alike():
    large, small = nn.ModuleDict(dict(a=nn.Linear(2, 2), b=nn.Linear(2, 2))), nn.ModuleDict()
    small['a'], small['c'] = nn.Linear(2, 2), nn.Linear(2, 2)
    own = small['c'].weight.clone()
    SameConditionsHook(0, large.state_dict()).before_train(SimpleNamespace(model=small))
    assert torch.equal(small['a'].weight, large['a'].weight)
    assert torch.equal(small['c'].weight, own)
