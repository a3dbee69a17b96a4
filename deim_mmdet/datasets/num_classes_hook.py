# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.evaluation import CocoMetric
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from .checks import check_num_classes
from .coco_metric import CheckedCocoMetric


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Compare the model's number of classes with the data sets, and the data sets with each other,
    before a run.

    ``NumClassCheckHook`` of mmdet looks at each data set only when its first epoch starts, and does
    not see that training and validation disagree.

    Raises:
        ValueError: When they disagree; the message says what to set.
    """

    def before_run(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        num_classes = {}
        for name, module in model.named_modules():
            number = getattr(module, 'num_classes', None)
            # A region proposal head tells objects from background only.
            if isinstance(number, int) and not name.endswith('rpn_head'):
                num_classes[f'model.{name}.num_classes' if name else 'model.num_classes'] = number

        # Modules that are told the number by another one have no entry in the config to correct.
        configured = {
            name: number
            for name, number in num_classes.items()
            if name in _keys(runner.cfg.get('model'), 'model')
        }
        num_classes = configured or num_classes

        classes = {}
        for mode in ('train', 'val', 'test'):
            # The public properties would build loops that this run does not need.
            loop = getattr(runner, f'_{mode}_loop', None)
            dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
            names = getattr(dataset, 'metainfo', {}).get('classes')
            if names is None:
                continue
            classes[mode] = tuple(names)
            _raise_first(check_num_classes(num_classes, names, f'{mode}_dataloader'))
            _check_metrics(loop, dataset)
        if {'train', 'val'} <= set(classes) and classes['train'] != classes['val']:
            raise ValueError(
                f'Training and validation have different classes: {classes["train"]} and '
                f'{classes["val"]}. Labels would be mixed up. Give both data sets the same '
                'metainfo=dict(classes=(...)).'
            )


def _check_metrics(loop, dataset) -> None:
    """Refuse mmdet's metric where it would map the labels to other categories than the data set
    did."""
    cat2label = getattr(dataset, 'cat2label', None)
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        api = getattr(metric, '_coco_api', None)
        if (
            not isinstance(metric, CocoMetric)
            or isinstance(metric, CheckedCocoMetric)
            or not (api and cat2label)
        ):
            continue
        taken = api.get_cat_ids(cat_names=dataset.metainfo['classes'])
        if taken != sorted(cat2label, key=cat2label.get):
            raise ValueError(
                'CocoMetric numbers the classes in the order of the annotation file, which is not '
                f'the order of {dataset.metainfo["classes"]}: AP would be wrong. Use '
                'CheckedCocoMetric.'
            )


def _keys(config, prefix: str) -> set:
    """All dotted paths of a configuration."""
    found = {prefix}
    if isinstance(config, dict):
        for key, value in config.items():
            found |= _keys(value, f'{prefix}.{key}')
    return found


def _raise_first(problems) -> None:
    if problems:
        raise ValueError(str(problems[0]))
