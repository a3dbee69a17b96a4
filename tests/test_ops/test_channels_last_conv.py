# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn as nn

from deim_mmdet.models.layers.conv import Conv2d
from deim_mmdet.ops.channels_last_conv import ChannelsLastConv, is_faster

# kernel, stride, padding
GEOMETRIES = [(3, 1, 1), (3, 2, 1), (2, 1, 0), (5, 1, 2)]


@pytest.mark.parametrize(('kernel', 'stride', 'padding'), GEOMETRIES)
@pytest.mark.parametrize('chunk', [1, 20_000, 1_000_000])  # a row, a few, an image at a time
def test_results_and_gradients_are_those_of_pytorch(kernel, stride, padding, chunk, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr('deim_mmdet.ops.channels_last_conv.CHUNK', chunk)
    conv = Conv2d(32, 8, kernel, stride, padding, bias=False).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(32, 8, kernel, stride, padding, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.rand(2, 32, 9, 13).contiguous(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    calls = []
    apply = ChannelsLastConv.apply
    monkeypatch.setattr(ChannelsLastConv, 'apply', lambda *args: calls.append(1) or apply(*args))
    outputs = [layer(each) for layer, each in zip((conv, plain), inputs)]
    assert len(calls) == 1
    torch.testing.assert_close(*outputs)
    weights = torch.rand_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad)
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_padding_that_is_named(padding):
    conv = Conv2d(32, 4, 3, padding=padding, bias=False).to(memory_format=torch.channels_last)
    conv(torch.rand(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert conv.weight.grad.any()


def test_an_image_needs_no_gradient():
    conv = Conv2d(32, 4, 3, bias=False).to(memory_format=torch.channels_last)
    x = torch.rand(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    conv(x).sum().backward()
    assert conv.weight.grad is not None and x.grad is None


def test_where_it_is_faster():
    last = torch.rand(2, 32, 9, 13).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(8, 32, 3, 3, requires_grad=True)
    assert is_faster(last, weight, 1)
    assert not is_faster(last.contiguous(), weight, 1)
    many = torch.rand(2, 64, 9, 13).contiguous(memory_format=torch.channels_last)
    assert not is_faster(many, weight, 2)
    few = last[:, :6].contiguous(memory_format=torch.channels_last)
    assert not is_faster(few, weight[:, :6], 1)
    assert not is_faster(last, weight[..., :1, :1], 1)  # 1x1
    assert not is_faster(last, weight.detach(), 1)  # frozen
    assert not is_faster(last.bfloat16(), weight.bfloat16(), 1)
    with torch.no_grad():
        assert not is_faster(last, weight, 1)
    with torch.autocast('cpu', torch.bfloat16):
        assert not is_faster(last, weight, 1)
