# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Between published checkpoints and MMDetection's, as dicts."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from mmengine.logging import print_log
from torch import Tensor

from .class_rows import NO_CLASS, classes_of_rows, count_class_rows, fit_category_ids
from .configs import model_differences
from .families import FAMILIES
from .family import PublishedForm
from .state_dict import ConversionReport, convert_state_dict, is_published, revert_state_dict


def to_mmdet_checkpoint(
    checkpoint: Mapping[str, Any], classes: Optional[Sequence[str]] = None
) -> Mapping[str, Any]:
    """An MMDetection checkpoint of whatever checkpoint is given; a log line says what was done.

    Args:
        checkpoint (Mapping): A published checkpoint of a known family, an MMDetection checkpoint,
            or bare weights under our names.
        classes (Sequence[str], optional): Names of the classes of a published checkpoint. Defaults
            to None: those in its 'meta', which :func:`to_official_checkpoint` writes; those of COCO
            or Objects365, by their number; else none.

    Returns:
        Mapping: With 'state_dict' and 'meta'; an MMDetection checkpoint is returned as it is.

    Raises:
        ValueError: No rule names a key of a published checkpoint, or ``classes`` do not fit it.
    """
    if not is_published(checkpoint):
        if 'state_dict' in checkpoint:
            return checkpoint
        return dict(meta={}, state_dict=checkpoint)
    converted, report = converted_checkpoint(checkpoint, classes)
    print_log(report.summary, logger='current')
    return converted


def converted_checkpoint(
    checkpoint: Mapping[str, Any],
    classes: Optional[Sequence[str]] = None,
    model_state: Optional[Mapping[str, Tensor]] = None,
) -> Tuple[Dict[str, Any], ConversionReport]:
    """MMDetection checkpoint of a published one, and what became of every key.

    Args:
        checkpoint (Mapping): A published checkpoint.
        classes (Sequence[str], optional): As in :func:`to_mmdet_checkpoint`.
        model_state (Mapping, optional): ``state_dict()`` of the model that the weights are for: it
            is compared with them, but for the number of classes. Where it has COCO's 80 classes,
            and the checkpoint a row for each of the 91 category ids, the rows are moved.

    Returns:
        tuple[dict, ConversionReport]: The new checkpoint, and the report.
    """
    weights, report = convert_state_dict(checkpoint)
    if model_state is not None:
        weights, rows = fit_category_ids(weights, count_class_rows(model_state))
        report.class_rows = rows and str(rows)
        report.take_comparison(model_differences(weights, model_state))
    num_classes = count_class_rows(weights)
    known = classes_of_rows(num_classes)
    if classes is None:  # in a file that we wrote
        classes = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
    if classes is not None:
        check_class_names(classes, num_classes, known)
    elif known is not None:
        classes = _names(known)
    meta = dict(weights=report.source, published_family=report.family)
    if classes is not None:
        meta['dataset_meta'] = dict(classes=tuple(classes))
    if isinstance(checkpoint.get('last_epoch'), int):
        meta['published_epoch'] = checkpoint['last_epoch']
    return dict(meta=meta, state_dict=weights), report


def to_official_checkpoint(
    checkpoint: Mapping[str, Any],
    family: Optional[str] = None,
    form: Optional[PublishedForm] = None,
) -> Tuple[Dict[str, Any], str]:
    """Published checkpoint of ours: what the methods' own repositories load.

    Their evaluation, export and fine-tuning read ``ema.module``, or ``model`` where there is no
    ``ema``; both are the weights that MMDetection evaluates, i.e. the moving average. Optimiser
    and schedule are not written: training there begins anew (fine-tuning), it does not resume.

    Args:
        checkpoint (Mapping): MMDetection checkpoint, or bare weights under our names.
        family (str, optional): Name of the family. Defaults to None: the one it was converted from,
            else the first that has names for all weights; RT-DETR and RT-DETRv2 both have.
        form (PublishedForm, optional): Size of the input, and points per level where they are not
            those of the published models. Defaults to None: 640 x 640, the published points.

    Returns:
        tuple[dict, str]: ``{'model': weights, 'ema': {'module': weights, 'updates': n},
        'last_epoch': n}``, and the name of the family.

    Raises:
        ValueError: The checkpoint is published already, or has weights that no family names.
    """
    if is_published(checkpoint):
        raise ValueError('These weights have their published names already.')
    meta = checkpoint.get('meta') or {}
    weights = checkpoint.get('state_dict', checkpoint)
    ema_steps = (checkpoint.get('ema_state_dict') or {}).get('steps', 0)
    published, found = revert_state_dict(
        weights, 'official', family or _official_family(meta.get('published_family')), form
    )
    official = dict(
        model=published,
        ema=dict(module=published, updates=int(ema_steps)),
        last_epoch=int(meta.get('epoch', meta.get('published_epoch', 0))),
    )
    if meta.get('dataset_meta'):  # names of the classes, which the others do not read
        official['meta'] = dict(dataset_meta=meta['dataset_meta'])
    return official, found.name


def check_class_names(
    classes: Sequence[str], num_classes: int, known: Optional[Sequence[Optional[str]]] = None
) -> None:
    """Refuse a class list that does not go with a head.

    Args:
        classes (Sequence[str]): Names that were given.
        num_classes (int): Rows of the head.
        known (Sequence[str | None], optional): Names that the rows are known to have.

    Raises:
        ValueError: Names that are given twice, or another number of names than rows; the message
            has both lists.
    """
    lists = f'Given: {_names(classes)}. ' + (
        f'The head has {num_classes} classes' + (f': {_names(known)}.' if known else ' (no names).')
    )
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ValueError(f'The class list names {_names(twice)} more than once. {lists}')
    if len(classes) != num_classes:
        raise ValueError(
            f'{len(classes)} class names for {num_classes} classes: give one name per class, in '
            f'the order of the head. {lists}'
        )


def _official_family(published: Optional[str]) -> Optional[str]:
    """The family of the same method in the official layout; its name begins with the method."""
    method = (published or '').partition(' ')[0]
    official = (each.name for each in FAMILIES if each.layout == 'official')
    return next((name for name in official if name.partition(' ')[0] == method), None)


def _names(names: Sequence[Optional[str]]) -> List[str]:
    return [NO_CLASS if name is None else name for name in names]
