# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Which configs of this package weights belong to."""

import copy
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple, Union

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor

import deim_mmdet
from deim_mmdet.models.detectors import DNDETR, RTDETR, DNDeformableDETR, YOLOv8

from .class_rows import CLASS_TENSOR
from .state_dict import ConversionReport, compare_states

# Parts of a model config without weights, or whose weights do not tell the size.
WEIGHTLESS = ('data_preprocessor', 'denoising', 'init_cfg', 'test_cfg', 'train_cfg')
DENOISING = 'denoising.'  # training can do without it

_STATES: Dict[str, Dict[str, Tensor]] = {}  # see _state_of


def fitting_configs(weights: Mapping[str, Tensor]) -> Tuple[List[str], int]:
    """Find the configs of this package whose model has these weights.

    Looks at the COCO configs of RT-DETR's relatives, YOLOv8 and DN-DETR, in the repository or in
    the installed package. Their models are built without memory. The number of classes plays no
    part, nor do denoising, counters of batch norms, and what the config fixes as well. Several
    configs fit where only the training differs: DEIM-D-FINE-S and D-FINE-S, RT-DETR and RT-DETRv2.

    Args:
        weights (Mapping): Weights under our names.

    Returns:
        tuple[list[str], int]: Paths of the configs that fit best, and the number of tensors in
        which they differ: 0 when they fit.
    """
    differences = {}
    for path, model_state in _candidates().items():
        found = model_differences(weights, model_state)
        differences[_shown(path)] = sum(map(len, (found.missing, found.unused, found.mismatched)))
    least = min(differences.values(), default=0)
    return [path for path, number in differences.items() if number == least], least


def describe_configs(weights: Mapping[str, Tensor]) -> str:
    """A sentence that names the configs that fit best, see :func:`fitting_configs`."""
    paths, differences = fitting_configs(weights)
    if not paths:
        return 'No configs were found to compare with.'
    names = ', '.join(paths)
    if not differences:
        return f'Configs that fit: {names}.'
    return f'No config of this package fits; the closest, with {differences} differences: {names}.'


def model_differences(
    weights: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> ConversionReport:
    """What is missing, unused, or of another shape, apart from the number of classes.

    Args:
        weights (Mapping): Weights under our names.
        model_state (Mapping): ``state_dict()`` of a model.

    Returns:
        ConversionReport: Its last three attributes are filled.
    """
    report = ConversionReport(family='', source='')
    compare_states(
        {key: _without_classes(key, tensor) for key, tensor in weights.items()},
        {key: _without_classes(key, tensor) for key, tensor in model_state.items()},
        report,
    )
    for name in ('missing', 'unused'):
        keys = getattr(report, name)
        setattr(report, name, [key for key in keys if not key.startswith(DENOISING)])
    return report


def refuse_other_weights(weights: Mapping[str, Tensor], cfg: Config) -> None:
    """Refuse weights that are not those of the model of a config.

    Args:
        weights (Mapping): Weights under our names.
        cfg (Config): Config of a model of this package.

    Raises:
        ValueError: They differ, but for the number of classes and denoising.
    """
    report = model_differences(weights, model_state(cfg))
    if not report.fits:
        lines = (
            f'{len(keys)} {name}, first {keys[0]}'
            for name, keys in vars(report).items()
            if name in ('missing', 'unused', 'mismatched') and keys
        )
        raise ValueError(
            f'The weights are not those of the model of the config: {"; ".join(lines)}. They must '
            'have the form that training saves (before `switch_to_deploy`). '
            f'{describe_configs(weights)}'
        )


def model_state(cfg: Config) -> Dict[str, Tensor]:
    """State dict of the model of a config, without its denoising: names and shapes, no values.

    Raises:
        ValueError: See :func:`model_of`.
    """
    part = {key: value for key, value in model_of(cfg).items() if key not in WEIGHTLESS}
    part['backbone'] = {**part.get('backbone', {}), 'init_cfg': None}  # ImageNet weights
    return _state_of(part)


def model_of(cfg: Config) -> ConfigDict:
    """The model of a config, which is of a family whose weights are converted.

    Raises:
        ValueError: The config has no model, or another one.
    """
    model = cfg.get('model') or ConfigDict(type=None)
    if not _has_a_family(model.type):
        raise ValueError(
            f'The model of the config is {model.type}, whose weights are not converted: name the '
            'config of an RT-DETR, D-FINE, DEIM, DEYO, YOLOv8 or DN-DETR.'
        )
    return model


def coco_configs() -> List[Path]:
    """Configs of this package for COCO, those of a repository or of an installed package."""
    package = Path(deim_mmdet.__file__).parent
    for root in (package.parent, package / '.mim'):
        # a folder `configs` beside an installed package is somebody else's
        if (root / 'model-index.yml').is_file():
            return sorted((root / 'configs').glob('*/*coco.py'))
    return []


@cache
def _candidates() -> Dict[Path, Dict[str, Tensor]]:
    states = {}
    for path in coco_configs():
        cfg = Config.fromfile(path, import_custom_modules=False)
        if _has_a_family(cfg.model.type):
            states[path] = model_state(cfg)
    return states


def _has_a_family(kind: Union[str, type, None]) -> bool:
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and issubclass(cls, (RTDETR, YOLOv8, DNDETR, DNDeformableDETR))


def _state_of(model: Mapping[str, Any]) -> Dict[str, Tensor]:
    key = json.dumps(model, sort_keys=True, default=str)  # a type may be the class itself
    if key not in _STATES:
        with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
            _STATES[key] = MODELS.build(copy.deepcopy(model)).state_dict()
    return _STATES[key]


def _without_classes(key: str, tensor: Tensor) -> Tensor:
    # no row stands for any number of rows
    return tensor[:0] if CLASS_TENSOR.search(key) else tensor


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
