# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import logging
import re
from typing import Dict, List, Optional, Sequence, Tuple, Type

import torch
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.utils import digit_version
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

KINDS = ('norm', 'bias')
HAS_FUSED = digit_version(torch.__version__) >= digit_version('2.4')  # on CPUs, too
FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RuleOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    r"""Parameter groups from a short list of rules; the first rule that fits a tensor counts.

    Tensors with the same learning rate and weight decay form one group. (mmengine's default
    constructor makes a group per tensor, and the optimiser then works tensor by tensor.) Tensors
    that no rule fits keep the settings of the optimiser, those without gradient are left out.

    A rule is a dict with

    - ``pattern`` (str, optional): regular expression, searched in the name of the tensor;
    - ``kinds`` (list[str], optional): 'norm', every tensor of a normalisation layer, known by its
      type; 'bias', every other bias. A rule without fits all;
    - ``lr_mult`` (float, optional), ``decay_mult`` (float, optional): factors, 1 by default.

    The groups that the published models were trained with::

        # DEIM and D-FINE N
        rules=[dict(pattern=r'^backbone\.', lr_mult=0.5),
               dict(kinds=['norm', 'bias'], decay_mult=0.0)]
        # DEIM and D-FINE L, X: lr_mult 0.05, 0.01
        rules=[dict(pattern=r'^backbone\.', lr_mult=0.05),
               dict(kinds=['norm'], decay_mult=0.0)]
        # DEIM and D-FINE S, M; RT-DETRv2 R34, R50, R101: norms of the backbone at the base rate
        rules=[dict(kinds=['norm'], decay_mult=0.0),
               dict(pattern=r'^backbone\.', lr_mult=0.5)]
        # RT-DETRv2 R18
        rules=[dict(kinds=['norm'], decay_mult=0.0)]

    N, L and X decay the norms of their backbone; ``decay_norms=False`` decays none, whatever rule
    they follow, which is what those settings evidently meant.

    AdamW, Adam and SGD use PyTorch's fused kernel where there is one (2.4 or newer): it updates all
    tensors at once, which is faster. ``optimizer=dict(fused=False)`` does without.

    Source: the published training settings of DEIM, D-FINE and RT-DETRv2.

    Args:
        optim_wrapper_cfg (dict): Config of the optimiser wrapper, with ``optimizer``, whose ``lr``
            and ``weight_decay`` the factors apply to.
        paramwise_cfg (dict, optional): ``rules`` (list[dict]), and ``decay_norms`` (bool): whether
            norms may decay. Defaults to True: as the rules say.

    Raises:
        ValueError: If a rule or an option is not known, or the optimiser lacks lr or weight_decay.
    """

    def _validate_cfg(self) -> None:
        unknown = set(self.paramwise_cfg) - {'rules', 'decay_norms'}
        if unknown:
            raise ValueError(
                f'paramwise_cfg of RuleOptimWrapperConstructor may have rules and decay_norms, but '
                f'got {sorted(unknown)}'
            )
        if self.base_lr is None or self.base_wd is None:
            raise ValueError(
                'RuleOptimWrapperConstructor needs lr and weight_decay of the optimizer, but got '
                f'{self.optimizer_cfg}'
            )
        for rule in self.paramwise_cfg.get('rules', []):
            _check_rule(rule)
        if self._optimizer_class() is None:
            raise ValueError(
                "the optimizer's type must be a registered name, as AdamW is, got "
                f'{self.optimizer_cfg["type"]!r}'
            )

    def _optimizer_class(self) -> Optional[Type[Optimizer]]:
        kind = self.optimizer_cfg['type']
        return OPTIMIZERS.get(kind) if isinstance(kind, str) else kind

    def add_params(self, params: List[dict], module: nn.Module, **kwargs) -> None:
        """Adds the groups of ``module`` to ``params``; called by mmengine.

        Args:
            params (list[dict]): Receives the groups.
            module (nn.Module): The model.
        """
        rules = self.paramwise_cfg.get('rules', [])
        decay_norms = self.paramwise_cfg.get('decay_norms', True)
        groups: Dict[Tuple[float, float], List[nn.Parameter]] = {}
        used = set()
        for name, param, kind in named_kinds(module):
            index, rule = _first_fit(rules, name, kind)
            used.add(index)
            lr = self.base_lr * rule.get('lr_mult', 1.0)
            decay = self.base_wd * rule.get('decay_mult', 1.0)
            if kind == 'norm' and not decay_norms:
                decay = 0.0
            groups.setdefault((lr, decay), []).append(param)

        for (lr, decay), tensors in groups.items():
            params.append(dict(params=tensors, lr=lr, weight_decay=decay))
            count = sum(param.numel() for param in tensors)
            print_log(
                f'Parameter group: {len(tensors)} tensors with {count:,} values, lr {lr:g}, '
                f'weight decay {decay:g}',
                logger='current',
            )
        for index, rule in enumerate(rules):
            if index not in used:
                print_log(
                    f'The rule {dict(rule)} of paramwise_cfg fits none of the tensors that have a '
                    'gradient and that the rules before it left over',
                    logger='current',
                    level=logging.WARNING,
                )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimiser and its wrapper.

        Args:
            model (nn.Module): The model, wrapped for distributed training or not.

        Returns:
            OptimWrapper: The wrapper.
        """
        if self._can_fuse(model):
            self.optimizer_cfg = dict(self.optimizer_cfg, fused=True)  # not in the user's config
        optim_wrapper = super().__call__(model)
        if HAS_FUSED:
            optim_wrapper.optimizer.register_load_state_dict_post_hook(lay_out_as_parameters)
        # mmengine turns the groups into ConfigDict, which torch.compile cannot trace
        groups = optim_wrapper.optimizer.param_groups
        groups[:] = [dict(group.items()) for group in groups]
        return optim_wrapper

    def _can_fuse(self, model: nn.Module) -> bool:
        """Whether PyTorch updates all tensors in one kernel and the user chose no other way."""
        return (
            HAS_FUSED
            and self._optimizer_class() in FUSED
            and not {'fused', 'foreach', 'differentiable'} & set(self.optimizer_cfg)
            and all(p.device.type in ('cpu', 'cuda') for p in model.parameters())
        )


def lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Bring loaded states into the order in memory that their parameters have.

    A fused kernel takes the n-th value in memory of each. In a checkpoint of a run with the
    channels first (or last) they lie as they did there, and would be mixed up without an error.

    Args:
        optimizer (Optimizer): Has loaded its states.
    """
    for parameter, states in optimizer.state.items():
        for name, state in states.items():
            is_alike = torch.is_tensor(state) and state.shape == parameter.shape
            if is_alike and state.stride() != parameter.stride():
                states[name] = torch.empty_like(parameter, dtype=state.dtype).copy_(state)


def named_kinds(model: nn.Module) -> List[Tuple[str, nn.Parameter, Optional[str]]]:
    """The parameters that have a gradient, each once.

    Args:
        model (nn.Module): The model.

    Returns:
        list[tuple]: Name, parameter and kind: 'norm', 'bias' or None.
    """
    found, seen = [], set()
    for prefix, module in model.named_modules():
        for leaf, param in module.named_parameters(recurse=False):
            if param.requires_grad and id(param) not in seen:
                seen.add(id(param))
                name = f'{prefix}.{leaf}' if prefix else leaf
                found.append((name, param, _kind(module, leaf)))
    return found


def _kind(module: nn.Module, leaf: str) -> Optional[str]:
    # other packages' layers (LayerNorm2d, RMSNorm, ...) are known by the name of their class
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)) or re.search(
        r'Norm(\dd)?$', type(module).__name__
    ):
        return 'norm'
    return 'bias' if leaf == 'bias' or leaf.endswith('_bias') else None


def _first_fit(rules: Sequence[dict], name: str, kind: Optional[str]) -> Tuple[int, dict]:
    for index, rule in enumerate(rules):
        in_name = re.search(rule.get('pattern', ''), name)
        if in_name and ('kinds' not in rule or kind in rule['kinds']):
            return index, rule
    return -1, {}


def _check_rule(rule: dict) -> None:
    unknown = set(rule) - {'pattern', 'kinds', 'lr_mult', 'decay_mult'}
    wrong_kinds = set(rule.get('kinds', [])) - set(KINDS)
    if unknown or wrong_kinds:
        raise ValueError(
            'A rule of paramwise_cfg may have pattern, kinds (of '
            f'{list(KINDS)}), lr_mult and decay_mult, but got {dict(rule)}'
        )
