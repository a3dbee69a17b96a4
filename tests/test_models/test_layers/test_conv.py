# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn as nn

from deim_mmdet.models.layers.conv import (
    ConvNormAct,
    FrozenBatchNorm2d,
    LearnableAffine,
    RepVGGBlock,
    fold_norm,
    switch_to_deploy,
)

SILU = dict(type='SiLU')


def with_random_norms(model):
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                tensor.data.uniform_(low, low + 1)
    return model.eval()


def test_fold_norm_by_hand():
    # y = 3 * (2x - 1) / sqrt(3 + 1) + 5 = 3x + 3.5
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)
    for tensor, value in (
        (conv.weight, 2.0),
        (norm.weight, 3.0),
        (norm.bias, 5.0),
        (norm.running_mean, 1.0),
        (norm.running_var, 3.0),
    ):
        nn.init.constant_(tensor, value)
    weight, bias = fold_norm(conv, norm)
    assert weight.item() == 3.0
    assert bias.item() == 3.5


@pytest.mark.parametrize(
    'block',
    [
        lambda: ConvNormAct(4, 6, 1),
        lambda: ConvNormAct(4, 6, 3, stride=2, act_cfg=SILU, use_lab=True),
        lambda: ConvNormAct(4, 4, 5, groups=4),  # depthwise
        lambda: ConvNormAct(4, 6, 2, act_cfg=dict(type='ReLU', inplace=True)),
        lambda: RepVGGBlock(4, 6, act_cfg=SILU),
        lambda: RepVGGBlock(4, 4),
    ],
)
def test_fused_equals_train_form(block):
    block = with_random_norms(block())
    x = torch.randn(2, 4, 9, 8)
    expected, before = block(x), x.clone()
    for _ in range(2):  # the second time changes nothing
        block.fuse()
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert getattr(block.act, 'inplace', True) and torch.equal(x, before)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in block.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in block.modules()) == 1


def test_a_frozen_norm_folds_too():
    block = ConvNormAct(4, 6, 3)
    FrozenBatchNorm2d.replace_in(block)
    x = torch.randn(1, 4, 5, 5)
    expected = with_random_norms(block)(x)
    block.fuse()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_learned_affine_starts_as_identity_and_learns_two_numbers():
    lab, x = LearnableAffine(), torch.tensor([1.0, -2.0])
    assert torch.equal(lab(x), x)
    lab(x).sum().backward()
    assert lab.scale.grad.tolist() == [-1.0]  # sum of x
    assert lab.bias.grad.tolist() == [2.0]  # number of entries


@pytest.mark.parametrize('shape', [(2, 3, 4, 5), (6,)])
@pytest.mark.parametrize('channels_last', [False, True])
def test_gradients_of_the_learned_affine_are_those_of_autograd(shape, channels_last):
    x, weights = torch.randn(shape), torch.randn(shape)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    lab = LearnableAffine()
    nn.init.constant_(lab.scale, 1.5)
    nn.init.constant_(lab.bias, -0.5)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    scale, bias = (p.detach().clone().requires_grad_() for p in lab.parameters())
    outputs = lab(inputs[0]), inputs[1] * scale + bias
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(lab.scale.grad, scale.grad)
    torch.testing.assert_close(lab.bias.grad, bias.grad)


@pytest.mark.parametrize('scale', [1.5, 0.0, -0.7])
@pytest.mark.parametrize('shift', [0.4, -0.3])
def test_an_affine_behind_relu_folds_into_a_limit(scale, shift):
    block = with_random_norms(ConvNormAct(3, 4, 3, act_cfg=dict(type='ReLU'), use_lab=True))
    nn.init.constant_(block.lab.scale, scale)
    nn.init.constant_(block.lab.bias, shift)
    x = torch.randn(2, 3, 5, 6)
    expected = block(x).detach()
    assert (expected == shift).any()  # where ReLU is 0
    with torch.no_grad():
        for _ in range(2):  # the second time changes nothing
            block.fuse()
            torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert len(list(block.parameters())) == 2  # weight and bias of the convolution


def test_another_activation_keeps_its_affine():
    block = with_random_norms(ConvNormAct(3, 4, 3, act_cfg=dict(type='SiLU'), use_lab=True))
    nn.init.constant_(block.lab.scale, 1.5)
    x = torch.randn(2, 3, 5, 6)
    expected = block(x)
    block.fuse()
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(block.lab, LearnableAffine)


def test_there_is_no_affine_without_activation():
    assert not list(ConvNormAct(2, 2, 1, use_lab=True).lab.parameters())


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = ConvNormAct(2, 2, 3)

    def switch_to_deploy(self):
        self.conv.fuse()


def test_switch_to_deploy_asks_every_module_that_has_one():
    model = nn.ModuleDict(dict(part=Part(), other=ConvNormAct(2, 2, 3)))
    assert switch_to_deploy(model) is model
    assert model['part'].conv.conv.bias is not None
    assert model['other'].conv.bias is None
    switch_to_deploy(model, fold_all_norms=True)
    assert model['other'].conv.bias is not None
    assert not model.training
