# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How large a detector is and how much it computes, part by part.

Counted as the papers of RT-DETR, D-FINE and DEIM do, for one image: 2 operations for each
multiply-add of convolutions and linear layers, and :data:`PER_ELEMENT` for norms and activations.
The products inside attention (queries x keys, weights x values) are counted apart, because the
published numbers leave them out. Sampling, sums and pooling are not counted.
"""

import copy
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Dict, List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from deim_mmdet.models.layers.conv import switch_to_deploy

# Operations for each element of the output.
PER_ELEMENT = dict(
    native_batch_norm=2,
    _native_batch_norm_legit_no_training=2,  # what evaluation calls in newer PyTorch
    native_layer_norm=5,
    native_group_norm=5,
    relu=1,
    relu_=1,
    leaky_relu=1,
    leaky_relu_=1,
    silu=1,
    silu_=1,
    gelu=1,
    hardswish=1,
    hardswish_=1,
)
ATTENTION = ('bmm', 'baddbmm', 'attention')  # found in the names of operators


@dataclass(frozen=True)
class PartInfo:
    """One part of a detector, or all of it.

    Args:
        name (str): Attribute of the detector, such as 'backbone'.
        params (int): Parameters while it trains.
        deploy_params (int): Parameters in its deploy form.
        flops (int): Operations for one image, in its deploy form, without ``attention_flops``.
        attention_flops (int): Operations of the products inside attention.
    """

    name: str
    params: int
    deploy_params: int
    flops: int
    attention_flops: int


def model_info(model_cfg: dict, hw: Tuple[int, int] = (640, 640)) -> List[PartInfo]:
    """Describe any mmdet detector.

    Args:
        model_cfg (dict): Config of the detector.
        hw (tuple[int, int]): Height and width of the image in pixels. Defaults to (640, 640).

    Returns:
        list[PartInfo]: The parts in the order of the detector, those that neither hold parameters
        nor compute left out; 'total' last.

    Raises:
        ValueError: When the detector does not take images of that size.
    """
    divisor = (model_cfg.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    if min(hw) < 1 or any(side % divisor for side in hw):
        padded = ' '.join(str(max(1, math.ceil(side / divisor)) * divisor) for side in hw)
        raise ValueError(
            'height and width must be positive multiples of pad_size_divisor of the data '
            f'preprocessor, which is {divisor}; got {" ".join(map(str, hw))}. Take {padded}.'
        )
    try:
        return _measure(model_cfg, hw, 'meta')
    except Exception:  # tensors without data are quick, but some detectors look at values
        return _measure(model_cfg, hw, 'cpu')


def count_flops(model: nn.Module, hw: Tuple[int, int]) -> Dict[str, Tuple[int, int]]:
    """Operations of a detector for one image.

    Args:
        model (nn.Module): Detector in evaluation mode, its parameters trainable; left as it is.
        hw (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        dict[str, tuple[int, int]]: For each part of the detector the operations without and of the
        products inside attention. What one part lets another compute counts for the caller.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_more_operators())
    running = []  # the parts of the calls that have not returned, the outermost first
    entered = Counter()
    flops = defaultdict(Counter)

    def enter(name, *_):
        if not running:
            entered.clear()
            entered.update(counts())
        running.append(name)

    def leave(*_):
        part = running.pop()
        if not running:
            flops[part] += counts() - entered

    def counts():
        return Counter(counter.get_flop_counts().get('Global', {}))

    device = next(model.parameters()).device
    sample = DetDataSample(
        metainfo=dict(
            img_shape=hw,
            ori_shape=hw,
            pad_shape=hw,
            batch_input_shape=hw,
            scale_factor=(1.0, 1.0),
            img_id=0,
        )
    )
    handles = []
    for name, module in model.named_modules():
        if name:
            part = name.split('.')[0]
            handles.append(module.register_forward_pre_hook(partial(enter, part)))
            handles.append(module.register_forward_hook(leave))
    try:
        # NOTE gradients: with them PyTorch multiplies by weights with mm, never with bmm as in
        # attention, and runs no whole layer of a transformer as one operator
        with counter, _ShapeOfSamples(), torch.enable_grad():
            model(torch.zeros(1, 3, *hw, device=device), [sample], mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    flops['other'] = counts() - sum(flops.values(), Counter())
    return {part: _split_attention(found) for part, found in flops.items()}


class _ShapeOfSamples(TorchFunctionMode):
    """Lets ``F.grid_sample`` without data return its shape at once.

    PyTorch makes a hundred operations of it, none of which is counted: a third of the time.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.grid_sample and args[0].is_meta:
            image, grid = args[:2]  # (bs, C, H, W), (bs, N, points, 2)
            return image.new_empty(*image.shape[:2], *grid.shape[1:-1])
        return func(*args, **(kwargs or {}))


def _measure(model_cfg: dict, hw: Tuple[int, int], device: str) -> List[PartInfo]:
    with torch.device(device):
        model = MODELS.build(copy.deepcopy(model_cfg))  # some detectors change theirs
    model.to(device).eval()  # torch.Tensor(...) does not ask for the default device
    model.requires_grad_(True)
    params = _count_params(model)
    switch_to_deploy(model)
    deploy_params = _count_params(model)
    flops = count_flops(model, hw)
    names = [name for name, _ in model.named_children()] + ['other']
    parts = [
        PartInfo(name, params[name], deploy_params[name], *flops.get(name, (0, 0)))
        for name in names
        if params[name] or any(flops.get(name, ()))
    ]
    numbers = zip(*((p.params, p.deploy_params, p.flops, p.attention_flops) for p in parts))
    return [*parts, PartInfo('total', *map(sum, numbers))]


def _count_params(model: nn.Module) -> Counter:
    """Parameters by part; those of the detector itself are 'other'."""
    count = Counter()
    for name, parameter in model.named_parameters():
        count[name.split('.')[0] if '.' in name else 'other'] += parameter.numel()
    return count


def _more_operators() -> dict:
    """Rules for operators that ``FlopCounterMode`` does not count; tensors come as their shapes."""

    def per_element(number, *_, out_shape, **__):
        # norms also return their statistics, behind the output
        shape = out_shape if isinstance(out_shape, torch.Size) else out_shape[0]
        return number * math.prod(shape)

    def attention(query, key, value, *_, **__):
        return 2 * math.prod(query) * key[-2] + 2 * math.prod(query[:-1]) * math.prod(value[-2:])

    rules = {name: partial(per_element, number) for name, number in PER_ELEMENT.items()}
    rules['_scaled_dot_product_flash_attention_for_cpu'] = attention
    aten = torch.ops.aten
    return {getattr(aten, name): rule for name, rule in rules.items() if hasattr(aten, name)}


def _split_attention(found: Counter) -> Tuple[int, int]:
    attention = sum(n for op, n in found.items() if any(word in str(op) for word in ATTENTION))
    return sum(found.values()) - attention, attention
