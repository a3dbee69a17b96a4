# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from .families import FAMILIES
from .family import Family, PublishedForm

# counters of batch norms; frozen norms have none
COUNTER = '.num_batches_tracked'

# Backbones that are published alone, and what their names begin with, classifiers included.
BACKBONES = (
    ('HGNetv2', ('stem.', 'stages.', 'last_conv.', 'fc.')),
    ('PResNet', ('conv1.', 'res_layers.', 'fc.')),
)

# Transformer layers of detrex number their attentions: `self_attn`, `cross_attn` elsewhere.
DETREX_KEY = re.compile(r'transformer\.(encoder|decoder)\.layers\.\d+\.attentions\.')


@dataclass
class ConversionReport:
    """What became of every key.

    Attributes:
        family (str): Name of the family whose table was used.
        source (str): Part of the checkpoint that was taken.
        mapped (dict[str, str]): Published name -> our name.
        dropped (dict[str, str]): Published name -> why it is not needed.
        missing (list[str], optional): Our names that the model has and the checkpoint has not.
            None: no model was given to compare with.
        unused (list[str], optional): Our names that the checkpoint has and the model has not.
        mismatched (list[str], optional): Names whose shapes differ, with both shapes.
        class_rows (str, optional): Which class rows came from where, if they were moved.
        configs (str, optional): A sentence that names the configs that fit best.
    """

    family: str
    source: str
    mapped: Dict[str, str] = field(default_factory=dict)
    dropped: Dict[str, str] = field(default_factory=dict)
    missing: Optional[List[str]] = None
    unused: Optional[List[str]] = None
    mismatched: Optional[List[str]] = None
    class_rows: Optional[str] = None
    configs: Optional[str] = None

    @property
    def fits(self) -> bool:
        """Nothing is missing, unused or of another shape, as far as that was compared."""
        return not (self.missing or self.unused or self.mismatched)

    @property
    def summary(self) -> str:
        """One line for a log."""
        return (
            f'Published weights of {self.family} ({self.source}): {len(self.mapped)} tensors '
            f'converted, {len(self.dropped)} not needed.'
            + (f' {self.class_rows}.' if self.class_rows else '')
        )

    def take_comparison(self, other: 'ConversionReport') -> None:
        """Take over what another report found when it compared the weights with a model."""
        self.missing, self.unused, self.mismatched = other.missing, other.unused, other.mismatched

    def __str__(self) -> str:
        lines = [
            f'{self.family}, weights taken from {self.source}',
            f'{len(self.mapped)} tensors mapped, {len(self.dropped)} dropped',
        ]
        lines += [self.class_rows] if self.class_rows else []
        reasons = {}
        for key, reason in self.dropped.items():
            reasons.setdefault(reason, []).append(key)
        lines += [f'  dropped, {reason}: {_some(keys)}' for reason, keys in reasons.items()]
        if self.missing is None:
            lines.append('not compared with a model')
        else:
            for name in ('missing', 'unused', 'mismatched'):
                keys = getattr(self, name)
                lines.append(f'{len(keys)} {name}' + (f': {_some(keys)}' if keys else ''))
        return '\n'.join(lines + ([self.configs] if self.configs else []))


def convert_state_dict(
    checkpoint: Mapping[str, Any], model_state: Optional[Mapping[str, Tensor]] = None
) -> Tuple[Dict[str, Tensor], ConversionReport]:
    """Rename the weights of a published checkpoint. Nothing passed in is changed.

    Args:
        checkpoint (Mapping): A published checkpoint, see :func:`published_weights`, or its weights.
        model_state (Mapping, optional): ``state_dict()`` of the model that the weights are for.
            With it the report says what is missing, unused and of another shape. Defaults to
            None.

    Returns:
        tuple[dict[str, Tensor], ConversionReport]: Weights under our names, and what became of
        every key.

    Raises:
        ValueError: The checkpoint holds no weights, is ours already, or has keys that no rule
            names.
    """
    weights, source = published_weights(checkpoint)
    family = _family_of(weights)
    report = ConversionReport(family.name, source)
    found: Dict[str, Dict[str, Tensor]] = OrderedDict()  # our name -> published name -> tensor
    for key, tensor in weights.items():
        reason = family.reason_to_drop(key)
        if reason:
            report.dropped[key] = reason
            continue
        report.mapped[key] = family.convert(key)
        found.setdefault(report.mapped[key], {})[key] = tensor
    converted = OrderedDict((ours, _join(family, ours, parts)) for ours, parts in found.items())
    if model_state is not None:
        compare_states(converted, model_state, report)
    return converted, report


def revert_state_dict(
    weights: Mapping[str, Tensor],
    layout: str = 'official',
    family: Optional[str] = None,
    form: Optional[PublishedForm] = None,
) -> Tuple[Dict[str, Tensor], Family]:
    """Give our weights their published names, and add what published files hold beyond them.

    Args:
        weights (Mapping): Weights under our names, in the form that training saves.
        layout (str): 'official' or 'transformers'. Defaults to 'official'.
        family (str, optional): Name of the family. Defaults to None: the first of that layout that
            names every weight.
        form (PublishedForm, optional): What the computed tensors are made for. Defaults to None:
            640 x 640 pixels, points of the published models.

    Returns:
        tuple[dict[str, Tensor], Family]: Weights under their published names, and their family.

    Raises:
        ValueError: No family names every weight, or there is no such family.
    """
    known = [each for each in FAMILIES if each.layout == layout]
    families = [each for each in known if family is None or each.name == family]
    if not families:
        raise ValueError(
            f'There is no family {family!r} in the {layout} layout: take one of '
            f'{", ".join(repr(each.name) for each in known)}.'
        )
    unnamed = [
        [key for key in weights if not (each.is_unpublished(key) or each.revert(key))]
        for each in families
    ]
    left, chosen = min(zip(unnamed, families), key=lambda pair: len(pair[0]))
    if left:
        raise ValueError(
            f'{len(left)} of {len(weights)} weights have no name in the {layout} layout of '
            f'{chosen.name}, the closest family: {_some(left)}. Weights must be those of a model '
            'of this package, in the form that training saves (before `switch_to_deploy`).'
        )
    published = OrderedDict()
    for ours, tensor in weights.items():
        if chosen.is_unpublished(ours):
            continue
        names = chosen.revert(ours)
        for name, part in zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]):
            published[name] = part
            published.update(dict.fromkeys(chosen.second_names(name), part))
    if chosen.computed is not None:
        published.update(chosen.computed(weights, form or PublishedForm()))
    return published, chosen


def is_published(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is, or looks like, a published one that has to be converted."""
    if not isinstance(checkpoint, Mapping) or 'state_dict' in checkpoint:
        return False
    if any(isinstance(checkpoint.get(part), Mapping) for part in ('model', 'ema')):
        return True
    return any(
        family.convert(key) not in (None, key)
        for family in FAMILIES
        for key in checkpoint
        if isinstance(key, str)
    )


def published_weights(checkpoint: Mapping[str, Any]) -> Tuple[Mapping[str, Tensor], str]:
    """The weights to use of a published checkpoint, and where they were found.

    The moving average comes first: published results are its results.

    Args:
        checkpoint (Mapping): ``{'model': ..., 'ema': {'module': ...}, ...}``, or the weights
            themselves.

    Returns:
        tuple[Mapping[str, Tensor], str]: The weights, and 'ema.module', 'model' or 'the file
        itself'.

    Raises:
        ValueError: No weights are found, or the checkpoint is an MMDetection checkpoint.
    """
    refuse_other_objects(checkpoint)
    if 'state_dict' in checkpoint:
        raise ValueError(
            'This is an MMDetection checkpoint (it has a `state_dict`): it needs no conversion.'
        )
    ema = checkpoint.get('ema')
    if isinstance(ema, Mapping) and isinstance(ema.get('module'), Mapping):
        weights, source = ema['module'], 'ema.module'
    elif isinstance(checkpoint.get('model'), Mapping):
        weights, source = checkpoint['model'], 'model'
    else:
        weights, source = checkpoint, 'the file itself'
    others = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        raise ValueError(
            f'No weights in {source}: expected tensors only'
            + (f', found {_some(others)} too.' if others else ', found nothing.')
            + ' Published checkpoints are {"model": weights, "ema": {"module": weights}}.'
        )
    if all(key.startswith('module.') for key in weights):  # saved from a distributed wrapper
        weights = {key[len('module.') :]: value for key, value in weights.items()}
    return weights, source


def refuse_other_objects(checkpoint: Any) -> None:
    """Refuse what a file holds when it is no dict.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'A checkpoint is a dict of tensors, this is a {type(checkpoint).__name__}: save '
            "the model's `state_dict()`, not the model."
        )


def _family_of(weights: Mapping[str, Tensor]) -> Family:
    backbone = next(
        (name for name, parts in BACKBONES if all(k.startswith(parts) for k in weights)), None
    )
    if backbone:
        raise ValueError(
            f'This is a backbone alone. {backbone} loads it as it is: backbone=dict(init_cfg=dict('
            "type='Pretrained', checkpoint=...))."
        )
    detrex = next((key for key in weights if DETREX_KEY.match(key)), None)
    if detrex:
        raise ValueError(
            f'These weights are those of detrex, which has other names (e.g. {detrex}): there is '
            "no table for them. Take the checkpoint of the method's own repository."
        )
    if any(key.startswith('neck.') for key in weights):
        raise ValueError('These weights have our names already: no conversion is needed.')
    unnamed = [
        [key for key in weights if not (family.convert(key) or family.reason_to_drop(key))]
        for family in FAMILIES
    ]
    left, family = min(zip(unnamed, FAMILIES), key=lambda pair: len(pair[0]))
    if left:
        raise ValueError(
            f'No rule names {len(left)} of {len(weights)} keys; the closest family is '
            f'{family.name}. Known families: {", ".join(known.name for known in FAMILIES)}. For '
            'another model add its table to deim_mmdet/convert. Keys without a rule: '
            f'{", ".join(left)}'
        )
    return family


def _join(family: Family, ours: str, parts: Mapping[str, Tensor]) -> Tensor:
    if len(parts) == 1 and len(family.revert(ours)) <= 1:
        return next(iter(parts.values()))
    names = family.revert(ours)
    if set(names) != set(parts):
        raise ValueError(
            f'{ours} is made of {", ".join(names)}, the checkpoint has {", ".join(parts)}: it is '
            'incomplete, or holds the same tensor twice.'
        )
    return torch.cat([parts[name] for name in names])


def compare_states(
    converted: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    report: ConversionReport,
) -> None:
    """Note in ``report`` what ``converted`` lacks, and what is not of the shape, of a model."""
    constants = {key for family in FAMILIES for key in family.constants}

    def needed(key: str) -> bool:
        return not key.endswith(COUNTER) and key not in constants

    report.missing = [key for key in model_state if key not in converted and needed(key)]
    report.unused = [key for key in converted if key not in model_state and needed(key)]
    report.mismatched = [
        f'{key} {tuple(tensor.shape)} for {tuple(model_state[key].shape)}'
        for key, tensor in converted.items()
        if key in model_state and tensor.shape != model_state[key].shape
    ]


def _some(keys: List[str], limit: int = 5) -> str:
    more = f' and {len(keys) - limit} more' if len(keys) > limit else ''
    return ', '.join(map(str, keys[:limit])) + more
