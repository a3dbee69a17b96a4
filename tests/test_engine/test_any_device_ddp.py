# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.distributed as dist
from mmengine.model import is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@pytest.fixture
def group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_on_the_cpu_is_wrapped(group):
    """As the Runner builds it: from mmengine's own registry, with the local rank as device."""
    wrapper = MODEL_WRAPPERS.get('AnyDeviceDistributedDataParallel')
    model = MODEL_WRAPPERS.build(
        dict(type=wrapper), default_args=dict(module=nn.Linear(2, 1), device_ids=[0])
    )
    assert is_model_wrapper(model)
    assert model.device_ids is None and model.broadcast_buffers is False
    model(torch.ones(1, 2)).sum().backward()
    assert model.module.weight.grad.tolist() == [[1.0, 1.0]]
