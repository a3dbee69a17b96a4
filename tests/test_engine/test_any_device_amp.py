# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmdet.registry import OPTIM_WRAPPERS
from torch import nn

from deim_mmdet.engine import any_device_amp

on_cpu = pytest.mark.skipif(any_device_amp.get_device() != 'cpu', reason='checks the CPU')


def build(model, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return OPTIM_WRAPPERS.build(
        dict(type='AnyDeviceAmpOptimWrapper', optimizer=optimizer, **kwargs)
    )


def linear():
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    return model


@on_cpu
def test_forward_is_bfloat16_and_weights_are_float32():
    model = linear()
    wrapper = build(model)
    with wrapper.optim_context(model):
        output = model(torch.tensor([[1.0, 2.0]]))
    assert output.dtype == torch.bfloat16 and model.weight.dtype == torch.float32
    wrapper.update_params(output.float().sum())
    # the gradient of the sum is the input (1, 2), exact in bfloat16
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, -1.0]]))


@on_cpu
def test_gradient_clipping():
    """Gradient (3, 4) has norm 5; clipped to 1 it is (.6, .8)."""
    model = linear()
    wrapper = build(model, clip_grad=dict(max_norm=1))
    with wrapper.optim_context(model):
        output = model(torch.tensor([[3.0, 4.0]]))
    wrapper.update_params(output.float().sum())
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.4, 0.2]]), rtol=0, atol=1e-5)


@on_cpu
def test_gradient_accumulation_counts():
    """Two half losses make one step: weight 1 - (2 + 4) / 2."""
    model = linear()
    wrapper = build(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    for value, weight in ((2.0, 1.0), (4.0, -2.0)):
        with wrapper.optim_context(model):
            output = model(torch.tensor([[value, 0.0]]))
        wrapper.update_params(output.float().sum())
        assert model.weight[0, 0].item() == weight


@on_cpu
def test_state_of_any_precision_loads():
    wrapper = build(linear())
    state = wrapper.state_dict()
    assert state['loss_scaler'] == {}
    wrapper.load_state_dict(state)
    scaled = {**state, 'loss_scaler': {'scale': 4.0}}
    wrapper.load_state_dict(scaled)
    assert 'loss_scaler' in scaled  # the checkpoint is not changed
    del state['loss_scaler']
    wrapper.load_state_dict(state)


def test_float16_scales_the_loss(monkeypatch):
    """Without a GPU the scaler is on all the same: scaled gradients, restored at the step."""
    monkeypatch.setattr(any_device_amp, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(any_device_amp, '_grad_scaler', cpu_scaler)
    model = linear()
    wrapper = build(model, dtype='float16', loss_scale=8.0)
    loss = model(torch.tensor([[1.0, 2.0]])).sum()
    wrapper.backward(loss)
    assert model.weight.grad.tolist() == [[8.0, 16.0]]
    wrapper.step()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, -1.0]]))
    assert wrapper.state_dict()['loss_scaler']['scale'] == 8.0


def cpu_scaler(device, init_scale, enabled):
    return torch.amp.GradScaler('cpu', init_scale=init_scale, enabled=enabled)


@pytest.mark.parametrize(
    ('dtype', 'message'),
    [('float64', "must be one of bfloat16, float16, but is 'float64'"), ('float16', 'bfloat16')],
)
def test_refused(monkeypatch, dtype, message):
    monkeypatch.setattr(any_device_amp, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match=message):
        build(linear(), dtype=dtype)
