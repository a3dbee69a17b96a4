# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import logging
import math
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from torch import nn

from deim_mmdet.engine import RuleOptimWrapperConstructor, rule_optim_wrapper_constructor
from deim_mmdet.engine.rule_optim_wrapper_constructor import HAS_FUSED

from ..fixtures import fill
from .toy import make_runner

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / 'tests' / 'fixtures'


class LayerNorm2d(nn.Module):
    """A norm of another package, known by its name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.bias = nn.Parameter(torch.zeros(2))


class ToyDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.backbone.lab = nn.Module()
        self.backbone.lab.bias = nn.Parameter(torch.zeros(1))
        self.neck = nn.ModuleDict(dict(attn=nn.MultiheadAttention(2, 1), norm=LayerNorm2d()))
        self.decoder = nn.ModuleDict(dict(linear=nn.Linear(2, 2), norm=nn.LayerNorm(2)))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.shared = self.decoder['linear']


N = [dict(pattern=r'^backbone\.', lr_mult=0.5), dict(kinds=['norm', 'bias'], decay_mult=0.0)]
L = [dict(pattern=r'^backbone\.', lr_mult=0.05), dict(kinds=['norm'], decay_mult=0.0)]
S = [dict(kinds=['norm'], decay_mult=0.0), dict(pattern=r'^backbone\.', lr_mult=0.5)]
R18 = [dict(kinds=['norm'], decay_mult=0.0)]

CONV = {'backbone.0.weight', 'backbone.0.bias', 'backbone.lab.bias'}
BN = {'backbone.1.weight', 'backbone.1.bias'}
WEIGHTS = {'neck.attn.in_proj_weight', 'neck.attn.out_proj.weight', 'decoder.linear.weight'}
BIASES = {'neck.attn.in_proj_bias', 'neck.attn.out_proj.bias', 'decoder.linear.bias'}
NORMS = {'neck.norm.weight', 'neck.norm.bias', 'decoder.norm.weight', 'decoder.norm.bias'}


def build(model, **paramwise_cfg):
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=8e-4, weight_decay=1e-4))
    return RuleOptimWrapperConstructor(ConfigDict(cfg), ConfigDict(paramwise_cfg))(model)


def groups_of(model, wrapper):
    """{(lr, weight decay): names}; fails on two groups with the same settings."""
    names = {id(param): name for name, param in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        key = (pytest.approx(group['lr']).expected, group['weight_decay'])
        assert key not in found
        found[key] = {names[id(param)] for param in group['params']}
    return found


@pytest.mark.parametrize(
    'paramwise_cfg, expected',
    [
        (dict(rules=[]), {(8e-4, 1e-4): CONV | BN | WEIGHTS | BIASES | NORMS}),
        (
            dict(rules=N),
            {(4e-4, 1e-4): CONV | BN, (8e-4, 0.0): BIASES | NORMS, (8e-4, 1e-4): WEIGHTS},
        ),
        (
            dict(rules=L),
            {(4e-5, 1e-4): CONV | BN, (8e-4, 0.0): NORMS, (8e-4, 1e-4): WEIGHTS | BIASES},
        ),
        (
            dict(rules=S),
            {(4e-4, 1e-4): CONV, (8e-4, 0.0): BN | NORMS, (8e-4, 1e-4): WEIGHTS | BIASES},
        ),
        (
            dict(rules=R18),
            {(8e-4, 0.0): BN | NORMS, (8e-4, 1e-4): CONV | WEIGHTS | BIASES},
        ),
        # what the settings of N evidently meant
        (
            dict(rules=N, decay_norms=False),
            {
                (4e-4, 1e-4): CONV,
                (4e-4, 0.0): BN,
                (8e-4, 0.0): BIASES | NORMS,
                (8e-4, 1e-4): WEIGHTS,
            },
        ),
    ],
)
def test_published_groups(paramwise_cfg, expected):
    model = ToyDetector()
    found = groups_of(model, build(model, **paramwise_cfg))
    assert {(round(lr, 9), decay): names for (lr, decay), names in found.items()} == expected


def test_wrapped_model_and_config_are_left_as_they_are():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    cfg = dict(type='OptimWrapper', clip_grad=dict(max_norm=0.1),
               optimizer=dict(type='AdamW', lr=8e-4, weight_decay=1e-4))  # fmt: skip
    paramwise_cfg = dict(rules=copy.deepcopy(N))
    constructor = RuleOptimWrapperConstructor(copy.deepcopy(cfg), paramwise_cfg)
    wrapper = constructor(Wrapper(ToyDetector()))
    assert isinstance(wrapper, OptimWrapper) and len(wrapper.optimizer.param_groups) == 3
    assert paramwise_cfg == dict(rules=N)
    # plain dicts, which torch.compile can trace
    assert {type(group) for group in wrapper.optimizer.param_groups} == {dict}


@pytest.mark.skipif(not HAS_FUSED, reason='PyTorch has no fused kernels for CPUs')
@pytest.mark.parametrize(
    ('optimizer', 'fused'),
    [
        (dict(type='AdamW'), True),
        (dict(type='SGD', momentum=0.9, nesterov=True), True),
        (dict(type=torch.optim.AdamW), True),  # a class instead of a name
        (dict(type='AdamW', foreach=True), None),  # the user's choice
        (dict(type='AdamW', fused=False), False),
        (dict(type='Adadelta'), None),  # has none
    ],
)
def test_fused_where_it_can_be(optimizer, fused):
    """One kernel steps through all tensors, to the same weights."""
    optimizer = dict(optimizer, lr=0.01, weight_decay=0.1)
    torch.manual_seed(0)
    model = ToyDetector()
    plain = copy.deepcopy(model)
    ours = RuleOptimWrapperConstructor(dict(optimizer=optimizer), dict(rules=[]))(model).optimizer
    assert ours.param_groups[0].get('fused') is fused
    settings = {k: v for k, v in optimizer.items() if k not in ('type', 'fused', 'foreach')}
    reference = type(ours)(plain.parameters(), **settings)
    for _ in range(3):
        for a, b in zip(model.parameters(), plain.parameters()):
            if a.requires_grad:
                a.grad = torch.randn_like(a)
                b.grad = a.grad.clone()
        ours.step()
        reference.step()
    for a, b in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('before, after', [('first', 'last'), ('last', 'first')])
def test_resumes_with_another_order_of_channels(before, after):
    """A fused kernel would mix up the values of states that lie otherwise than their weights."""
    formats = dict(first=torch.contiguous_format, last=torch.channels_last)
    cfg = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1))
    torch.manual_seed(0)
    model = nn.Conv2d(4, 8, 3)
    gradients = [torch.randn_like(model.weight) for _ in range(2)]

    def step(model, optimizer, gradient):
        model.weight.grad = torch.empty_like(model.weight).copy_(gradient)
        optimizer.step()

    def optimizer_of(model):
        return RuleOptimWrapperConstructor(cfg, dict(rules=[]))(model).optimizer

    model.to(memory_format=formats[before])
    optimizer = optimizer_of(model)
    step(model, optimizer, gradients[0])
    resumed = copy.deepcopy(model).to(memory_format=formats[after])
    states = copy.deepcopy(optimizer.state_dict())
    optimizer_of_resumed = optimizer_of(resumed)
    optimizer_of_resumed.load_state_dict(states)
    step(model, optimizer, gradients[1])
    step(resumed, optimizer_of_resumed, gradients[1])
    torch.testing.assert_close(resumed.weight, model.weight)


def test_trains_in_a_runner_as_one_group_does(tmp_path):
    wrapper = dict(
        constructor='RuleOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),
        paramwise_cfg=dict(rules=[dict(pattern='^head', lr_mult=1.0), dict(kinds=['bias'])]),
    )
    ruled = make_runner(tmp_path / 'a', 2, optim_wrapper=wrapper)
    ruled.train()
    assert len(ruled.optim_wrapper.param_groups) == 1
    plain = make_runner(tmp_path / 'b', 2)
    plain.train()
    for a, b in zip(ruled.model.parameters(), plain.model.parameters()):
        torch.testing.assert_close(a, b)


def test_warns_of_a_rule_without_tensors(monkeypatch):
    lines = []
    monkeypatch.setattr(
        rule_optim_wrapper_constructor,
        'print_log',
        lambda line, logger, level=logging.INFO: lines.append((level, line)),
    )
    build(ToyDetector(), rules=[*N, dict(pattern='encoder', lr_mult=0.1)])
    warnings = [line for level, line in lines if level == logging.WARNING]
    assert len(warnings) == 1 and 'encoder' in warnings[0]
    # backbone: 3 x 2 + 2 weights and biases of the convolution, 2 + 2 of the norm, 1
    assert ('Parameter group: 5 tensors with 13 values, lr 0.0004, weight decay 0.0001') in lines[
        0
    ][1]


@pytest.mark.parametrize(
    'paramwise_cfg, message',
    [
        (dict(custom_keys={}), 'may have rules and decay_norms'),
        (dict(rules=[dict(patern='x')]), 'patern'),
        (dict(rules=[dict(kinds=['norms'])]), 'norms'),
    ],
)
def test_refuses(paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(ToyDetector(), **paramwise_cfg)


def test_refuses_an_optimizer_without_weight_decay():
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
    with pytest.raises(ValueError, match='needs lr and weight_decay'):
        RuleOptimWrapperConstructor(cfg, dict(rules=N))


def test_unknown_optimizers_are_refused_by_name():
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdmaW', lr=1e-4, weight_decay=0.1))
    with pytest.raises(ValueError, match="must be a registered name, as AdamW is, got 'AdmaW'"):
        RuleOptimWrapperConstructor(cfg, dict(rules=[]))


BUFFERS = r'(running_(mean|var)|num_batches_tracked)$'


def published_group(name):
    """The group of a tensor by its published name, in the settings of DEIM-D-FINE-N."""
    if 'backbone' in name:
        return 4e-4, 1e-4
    return 8e-4, 0.0 if re.search('norm|bn|bias', name) else 1e-4


def test_groups_of_the_published_model():
    published = {}
    for name, shape, _ in fill.read_tsv(FIXTURES / 'deim_hgnetv2_n.tsv'):
        if not fill.is_kept(name) and not re.search(BUFFERS, name):
            group = published.setdefault(published_group(name), [])
            group.append(math.prod(shape))

    cfg = Config.fromfile(ROOT / 'configs' / 'deim' / 'deim_dfine_hgnetv2-n_8xb16-160e_coco.py')
    wrapper_cfg = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
    model = MODELS.build(cfg.model)
    wrapper = RuleOptimWrapperConstructor(wrapper_cfg, cfg.optim_wrapper.paramwise_cfg)(model)
    ours = {
        (group['lr'], group['weight_decay']): [param.numel() for param in group['params']]
        for group in wrapper.optimizer.param_groups
    }
    assert len(ours) == 3
    assert {key: sorted(sizes) for key, sizes in ours.items()} == {
        key: sorted(sizes) for key, sizes in published.items()
    }
