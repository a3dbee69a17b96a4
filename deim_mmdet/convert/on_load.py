# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What happens to weights when they are loaded into one of our models."""

import re
from typing import Any, Dict, Iterable, Sequence

import torch.nn as nn
from mmengine.logging import print_log

from deim_mmdet.models.detectors import DEYO

from .class_rows import CLASS_TENSOR, class_tensors, count_class_rows, fit_category_ids
from .configs import DENOISING, describe_configs, model_differences
from .stage_one import is_stage_one
from .state_dict import COUNTER, convert_state_dict, is_published


def convert_published(module: nn.Module, state_dict: Dict[str, Any]) -> None:
    """Replace a published checkpoint by its weights under our names, in place.

    Weights that have our names are left alone. Those of a YOLOv8 get ours for a DEYO, too, which
    takes what it begins with when it loads them.

    Args:
        module (nn.Module): The model that loads them.
        state_dict (dict): A published checkpoint, or its weights.

    Raises:
        ValueError: The checkpoint is of no known family, or has other tensors than the model; the
            message names the configs that fit.
    """
    own = module.state_dict()
    if not is_published({key: state_dict[key] for key in state_dict if key not in own}):
        return
    converted, report = convert_state_dict(state_dict)
    found = model_differences(converted, own)
    begins = isinstance(module, DEYO) and is_stage_one(converted)
    if (found.missing or found.unused) and not begins:
        raise ValueError(
            f'The published weights of {report.family} do not fit the model: '
            f'{_count(found.missing)} are missing, {_count(found.unused)} are not in the model, '
            f'{len(found.mismatched)} have another shape. '
            f'{describe_configs(converted)} To load them into a model that you have changed, '
            'convert them first: tools/convert_weights.py.'
        )
    converted, rows = fit_category_ids(converted, count_class_rows(own))
    report.class_rows = rows and str(rows)
    state_dict.clear()
    state_dict.update(converted)
    print_log(report.summary, logger='current')


def refuse_other_models(module: nn.Module, state_dict: Dict[str, Any], prefix: str) -> None:
    """Stop when a checkpoint belongs to a model of another size or architecture, or has other
    classes.

    For training ``LoadWeightsHook`` has fitted the class rows by then. Everywhere else a class
    layer that keeps its initial values predicts at random, which mmengine would only log.

    Args:
        module (nn.Module): The model.
        state_dict (dict): Weights under our names.
        prefix (str): What the names begin with.

    Raises:
        ValueError: If any tensor has another shape, or if weights of a whole detector have another
            backbone. The message names the configs that fit, or both numbers of classes.
    """
    own = module.state_dict()
    weights = {key[len(prefix) :]: value for key, value in state_dict.items()}
    different = [
        f'{name}: checkpoint {tuple(value.shape)}, model {tuple(own[name].shape)}'
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape and not CLASS_TENSOR.search(name)
    ]
    if any(name.startswith('decoder.') for name in weights):
        # the first blocks of a larger backbone have the shapes of the smaller one
        mine, theirs = ({n for n in names if _is_backbone(n)} for names in (own, weights))
        if theirs:
            different += [f'{name}: in the checkpoint only' for name in sorted(theirs - mine)]
            different += [f'{name}: in the model only' for name in sorted(mine - theirs)]
    if different:
        kind = 'architecture' if _differ_in_kind(own, weights) else 'model size'
        raise ValueError(
            f'the checkpoint is of another {kind}: {len(different)} of {len(own)} tensors '
            f'differ, first {different[0]}. {describe_configs(weights)} Use the config that the '
            'checkpoint was trained with.'
        )
    other_classes = [
        name
        for name in class_tensors(weights)
        if name in own and weights[name].shape != own[name].shape
    ]
    if other_classes:
        raise ValueError(
            f'the checkpoint has {count_class_rows(weights)} classes, the model '
            f'{count_class_rows(own)}: set num_classes to that of the checkpoint. To train on '
            "other classes, default_hooks=dict(load_weights=dict(type='LoadWeightsHook')) fits the "
            f'class layers by name. First tensor that differs: {other_classes[0]}.'
        )


def _differ_in_kind(own: Iterable[str], weights: Iterable[str]) -> bool:
    """Whether the parts of two models have other names, as 'backbone.stem' and 'backbone.conv1'.

    Sizes of one architecture differ in what is inside of the parts, or one has a part more.
    """
    mine, theirs = (
        {
            re.sub(r'\d+', '', '.'.join(name.split('.')[:2]))
            for name in names
            if not name.startswith(DENOISING)
        }
        for names in (own, weights)
    )
    return bool(mine - theirs and theirs - mine)


def _is_backbone(name: str) -> bool:
    return name.startswith('backbone.') and not name.endswith(COUNTER)


def _count(names: Sequence[str]) -> str:
    return f'{len(names)}' + (f' ({names[0]}{", ..." if len(names) > 1 else ""})' if names else '')
