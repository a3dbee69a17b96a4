# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Check what a configuration points at, and point a configuration at other COCO-format files."""

import copy
import logging
import os
import os.path as osp
from collections import Counter
from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from ..convert.class_rows import class_tensors, fit_class_rows
from ..convert.on_load import convert_published
from ..convert.state_dict import refuse_other_objects
from ..engine.recipe import find_hook
from .checks import (
    CheckedAnnotations,
    Problem,
    check_annotations,
    check_image_file,
    check_image_files,
    check_image_folder,
    check_num_classes,
    read_annotations,
)
from .coco import CheckedCocoDataset

MODES = ('train', 'val', 'test')
SHOWN = 5  # unreadable images that are named


@dataclass(frozen=True)
class CheckedFiles:
    """One annotation file and its image folder after the checks.

    Args:
        mode (str): What it is used for: 'train', 'val', 'test', or '' when no configuration says
            so.
        ann_file (str): Path of the annotation file.
        img_dir (str): Folder of the images.
        content (CheckedAnnotations | None): None when the file cannot be read.
        problems (list[Problem]): What was found, in the file and the folder.
        skip (bool): Whether images that cannot be read are left out.
    """

    mode: str
    ann_file: str
    img_dir: str
    content: Optional[CheckedAnnotations]
    problems: List[Problem]
    skip: bool = False


def check_files(
    ann_file: str,
    img_dir: str,
    classes=None,
    mode: str = '',
    need_objects: bool = True,
    skip: bool = False,
) -> CheckedFiles:
    """Check an annotation file, and whether every image it lists is in the folder.

    With ``skip`` some missing images are a warning.
    """
    try:
        content = read_annotations(ann_file)
    except (OSError, ValueError) as error:
        # The last sentence of our errors is the way out.
        message, _, remedy = str(error).rpartition('. ')
        problem = Problem('error', ann_file, f'{message}.', remedy)
        return CheckedFiles(mode, ann_file, img_dir, None, [problem], skip)
    checked = check_annotations(content, ann_file, classes, need_objects)
    problems = list(checked.problems)
    if checked.images:
        # a number, even of all, makes some missing images a warning
        limit = len(checked.images) if skip else None
        problems += check_image_folder(checked.images, img_dir, ann_file, limit)
    return CheckedFiles(mode, ann_file, img_dir, checked, problems, skip)


def check_images(files: CheckedFiles, most: int = 5000) -> List[Problem]:
    """Decode the images of an annotation file; missing ones are left to :func:`check_files`.

    Args:
        files (CheckedFiles): Result of :func:`check_files`.
        most (int): Of more images, as many are opened, evenly spread. Defaults to 5000.

    Returns:
        list[Problem]: The first ones, with the number of the others. Images that cannot be read are
        warnings where the pipeline skips them.
    """
    images = files.content.images if files.content else []
    there = [i for i in images if osp.isfile(osp.join(files.img_dir, i['file_name']))]
    there = there[:: max(1, -(-len(there) // most))]
    found = [p for _, p in check_image_files(there, files.img_dir, os.cpu_count() or 1) if p]
    if files.skip:
        # without a size to compare with, only what cannot be read is wrong
        found = [
            replace(p, level='warning') if check_image_file(p.file) is not None else p
            for p in found
        ]
    shown = found[:SHOWN]
    if len(found) > SHOWN:
        rest = f'{len(found) - SHOWN} more of {len(there)} images have problems'
        level = 'error' if any(p.level == 'error' for p in found[SHOWN:]) else 'warning'
        remedy = 'tools/check_dataset.py --all lists them.'
        shown.append(Problem(level, files.img_dir, f'{rest}.', remedy))
    return shown


def skip_unreadable(cfg: Config) -> Config:
    """A copy of a configuration whose training leaves out images that cannot be read.

    Raises:
        ValueError: If no training pipeline loads its images with LoadReadableImage.
    """
    cfg = copy.deepcopy(cfg)
    datasets = find_datasets(cfg.train_dataloader.dataset)
    loaders = [loader for dataset in datasets for loader in _image_loaders(dataset)]
    if not loaders:
        raise ValueError(
            f'The training pipeline of {cfg.filename} has no LoadReadableImage, which alone can '
            'skip images: use it in the place of LoadImageFromFile.'
        )
    for loader in loaders:
        loader['unreadable'] = 'skip'
    return cfg


def check_config(cfg: Config) -> Tuple[List[CheckedFiles], List[Problem]]:
    """Check every COCO-format data set of a configuration, and the model and evaluators against
    them.

    Args:
        cfg (Config): Configuration of a training; it is left as it is.

    Returns:
        tuple[list[CheckedFiles], list[Problem]]: What each data set holds and what is wrong with
        it; and what does not fit together.
    """
    checked, problems = [], []
    for mode in MODES:
        for dataset in find_datasets((cfg.get(f'{mode}_dataloader') or {}).get('dataset')):
            if not _reads_coco_files(dataset):
                problems.append(
                    Problem(
                        'warning',
                        f'{mode}_dataloader',
                        f'data sets of type {dataset["type"]} are not checked, only COCO-format '
                        'files are.',
                        'Training reports what it cannot read.',
                    )
                )
                continue
            files = _check_dataset(dataset, mode)
            if files is None:
                root = dataset.get('data_root', 'data/digits')
                message = f'the digits of {mode} are not there yet'
                problems.append(
                    Problem('warning', str(root), f'{message}.', 'Training builds them.')
                )
            # Validation and test are mostly the same files.
            elif not any(
                (files.ann_file, files.img_dir) == (c.ann_file, c.img_dir) for c in checked
            ):
                checked.append(files)
        problems += _check_evaluator(cfg, mode)
    if not checked and not problems:
        problems.append(
            Problem(
                'error',
                str(cfg.filename or 'configuration'),
                'no data set with an ann_file is in train_dataloader, val_dataloader or '
                'test_dataloader.',
                'Give the annotation file and the image folder instead of the configuration.',
            )
        )

    classes = {files.mode: files.content.classes for files in checked if files.content}
    numbers = dict(find_num_classes(cfg.get('model')))
    for mode, names in classes.items():
        problems += check_num_classes(numbers, names, f'{mode}_dataloader')
    for mode in ('val', 'test'):
        if 'train' in classes and classes.get(mode, classes['train']) != classes['train']:
            problems.append(
                Problem(
                    'error',
                    f'{mode}_dataloader',
                    f'its classes {classes[mode]} are not those of training, {classes["train"]}.',
                    'Give both data sets the same metainfo=dict(classes=(...)).',
                )
            )
    queries = (cfg.get('model') or {}).get('num_queries')
    for files in checked:
        problems += _check_queries(files, queries)
    return checked, problems + check_checkpoint(cfg, classes.get('train'))


def check_checkpoint(cfg: Config, classes: Optional[Sequence[str]] = None) -> List[Problem]:
    """Whether the checkpoint that ``load_from`` names fits the model of a configuration.

    Args:
        cfg (Config): The configuration; its LoadWeightsHook is taken into account.
        classes (Sequence[str], optional): Classes of the training data. Defaults to None: not
            known.

    Returns:
        list[Problem]: At most one.
    """
    path = cfg.get('load_from')
    if not path or '://' in path:
        return []
    if osp.isdir(path):
        remedy = 'Convert it by tools/convert_weights.py first, and name the new file.'
        return [Problem('error', path, 'the checkpoint is a folder.', remedy)]
    if not osp.isfile(path):
        return [Problem('error', path, 'the checkpoint does not exist.', 'Correct load_from.')]
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        refuse_other_objects(checkpoint)
    except Exception as error:  # whatever a file that is no checkpoint makes the unpickler raise
        message = f'the checkpoint cannot be read ({error}).'
        return [Problem('error', path, message, 'Name another file in load_from.')]
    own = MODELS.build(cfg.model)
    weights = own.state_dict()
    load = find_hook(cfg, 'LoadWeightsHook')
    state, warnings = dict(checkpoint.get('state_dict', checkpoint)), []
    try:
        convert_published(own, state)
        if load is not None and classes and class_tensors(state):
            loaded = dict(state_dict=state, meta=checkpoint.get('meta'))
            fitted = fit_class_rows(loaded, weights, classes, load.get('aliases'))
            state = fitted.state
            if fitted.hint:
                warnings = [Problem('warning', path, f'{fitted.message}.', fitted.hint)]
    except ValueError as error:
        message, _, remedy = str(error).rpartition('. ')
        return [Problem('error', path, f'{message}.', remedy)]
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    common = [name for name in state if name in shapes]
    if not common:
        return [
            Problem(
                'error',
                path,
                'no weight in the checkpoint has a name that the model knows.',
                'Weights published elsewhere are converted by tools/convert_weights.py first.',
            )
        ]
    different = [name for name in common if tuple(state[name].shape) != shapes[name]]
    message = 'the model does not take these weights'
    if different:
        first = different[0]
        message = (
            f'{len(different)} of {len(common)} tensors have another shape than in the model, the '
            f'first is {first}: {tuple(state[first].shape)} in the file, {shapes[first]} in the '
            'model'
        )
    try:
        load_state_dict(own, state, strict=False, logger=logging.getLogger('unheard'))
    except ValueError as error:  # of our models, which know the configurations that fit
        return [Problem('error', path, f'{message}.', str(error))]
    except RuntimeError:
        remedy = 'Use the configuration that the checkpoint was trained with.'
        return [Problem('error', path, f'{message}.', remedy)]
    if not different:
        return warnings
    remedy = 'Expected when the number of classes changes; otherwise name another checkpoint.'
    return [Problem('warning', path, f'{message}; these start from random values.', remedy)]


def find_datasets(dataset: Optional[dict]) -> Iterator[dict]:
    """The data sets with annotations of their own inside wrappers such as MultiImageMixDataset."""
    if not dataset:
        return
    if 'ann_file' in dataset or dataset.get('type') == 'DigitsInScenes':
        yield dataset
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or ())]:
        yield from find_datasets(inner)


def find_num_classes(model, prefix: str = 'model') -> Iterator[Tuple[str, int]]:
    """Every ``num_classes`` of a model's configuration, with its dotted name."""
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes' and isinstance(value, int):
                # A region proposal head tells objects from background only.
                if not prefix.endswith('rpn_head'):
                    yield f'{prefix}.{key}', value
            else:
                yield from find_num_classes(value, f'{prefix}.{key}')
    elif isinstance(model, (list, tuple)):
        for index, value in enumerate(model):
            yield from find_num_classes(value, f'{prefix}.{index}')


def use_coco_files(
    cfg: Config,
    train_ann: str,
    val_ann: str,
    train_images: str,
    val_images: Optional[str] = None,
    classes: Optional[Sequence[str]] = None,
) -> Config:
    """A copy of a configuration that trains and evaluates on other COCO-format files.

    The classes are those of the training file, in its order, unless some are named; every
    ``num_classes`` of the model follows. Pipelines, schedule and all else stay.

    Args:
        cfg (Config): Configuration of a detector on any COCO-format data set.
        train_ann (str): Annotation file to train on.
        val_ann (str): Annotation file to evaluate on, for validation and test.
        train_images (str): Folder that the file names of ``train_ann`` start from.
        val_images (str, optional): The same for ``val_ann``. Defaults to ``train_images``.
        classes (Sequence[str], optional): Classes to learn, in this order; objects of others are
            background. Defaults to None: all.

    Returns:
        Config: The new configuration.

    Raises:
        FileNotFoundError: When an annotation file is missing.
        ValueError: When one cannot be used, or the configuration has no such data set.
    """
    cfg = copy.deepcopy(cfg)
    checked = check_annotations(read_annotations(train_ann), train_ann, classes, need_objects=False)
    if checked.errors:
        raise ValueError('\n'.join(map(str, checked.errors)))
    sources = dict(train=(train_ann, train_images))
    sources['val'] = sources['test'] = (val_ann, val_images or train_images)
    for mode in MODES:
        found = list(find_datasets((cfg.get(f'{mode}_dataloader') or {}).get('dataset')))
        if mode != 'test' and len(found) != 1:
            raise ValueError(
                f'{mode}_dataloader of {cfg.filename} has {len(found)} data sets with an '
                'ann_file, and needs exactly one to be pointed at other files. Start from another '
                'configuration.'
            )
        for dataset in found:
            kept = {
                key: dataset[key]
                for key in ('pipeline', 'filter_cfg', 'test_mode', 'serialize_data', 'max_refetch')
                if key in dataset
            }
            dataset.clear()
            dataset.update(
                type='CheckedCocoDataset',
                metainfo=dict(classes=checked.classes),
                ann_file=osp.abspath(sources[mode][0]),
                data_prefix=dict(img=osp.abspath(sources[mode][1])),
                **kept,
            )
        if mode != 'train' and cfg.get(f'{mode}_evaluator'):
            cfg[f'{mode}_evaluator'] = ConfigDict(
                type='CheckedCocoMetric', ann_file=osp.abspath(sources[mode][0]), metric='bbox'
            )
    _set_num_classes(cfg.model, len(checked.classes))
    return cfg


def _set_num_classes(model, number: int) -> None:
    if isinstance(model, dict):
        if isinstance(model.get('num_classes'), int):
            model['num_classes'] = number
        for key, value in model.items():
            if key != 'rpn_head':
                _set_num_classes(value, number)
    elif isinstance(model, (list, tuple)):
        for value in model:
            _set_num_classes(value, number)


def _image_loaders(dataset: dict) -> List[dict]:
    steps = [step for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
    return [step for step in steps if step['type'] == 'LoadReadableImage']


def _reads_coco_files(dataset: dict) -> bool:
    """Whether a data set takes paths and categories as they stand in a COCO-format file."""
    cls = _dataset_class(dataset)
    return isinstance(cls, type) and (cls is CocoDataset or issubclass(cls, CheckedCocoDataset))


def _dataset_class(dataset: dict) -> Optional[type]:
    return DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']


def _check_dataset(dataset: dict, mode: str) -> Optional[CheckedFiles]:
    """None for digits that are not built yet."""
    cls = _dataset_class(dataset)
    metainfo: Dict = {**(getattr(cls, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})}
    # The class itself joins the paths; nothing is read with lazy_init.
    known = {key: value for key, value in dataset.items() if key not in ('type', 'pipeline')}
    lazy = cls(**{**copy.deepcopy(known), 'pipeline': [], 'lazy_init': True})
    if dataset.get('type') == 'DigitsInScenes' and not osp.exists(lazy.ann_file):
        return None
    filter_empty = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
    need_objects = filter_empty and not dataset.get('test_mode', False)
    img_dir = lazy.data_prefix.get('img') or lazy.data_prefix.get('img_path') or ''
    skip = any(loader.get('unreadable') == 'skip' for loader in _image_loaders(dataset))
    return check_files(lazy.ann_file, img_dir, metainfo.get('classes'), mode, need_objects, skip)


def _check_evaluator(cfg: Config, mode: str) -> Iterator[Problem]:
    evaluators = cfg.get(f'{mode}_evaluator') or ()
    dataset = (cfg.get(f'{mode}_dataloader') or {}).get('dataset')
    used = []
    for found in find_datasets(dataset):
        ann_file = found.get('ann_file') or f'annotations/{found.get("split", "train")}.json'
        used.append(osp.abspath(osp.join(found.get('data_root') or '', ann_file)))
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        ann_file = evaluator.get('ann_file')
        if ann_file and used and osp.abspath(ann_file) not in used:
            yield Problem(
                'error',
                f'{mode}_evaluator',
                f'it evaluates against {ann_file}, and the data set reads {used[0]}.',
                f'Set {mode}_evaluator.ann_file to the same file.',
            )


def _check_queries(files: CheckedFiles, queries) -> Iterator[Problem]:
    if not isinstance(queries, int) or files.content is None:
        return
    content = files.content
    per_image = Counter(content.image_index[content.usable].tolist())
    crowded = {image: count for image, count in per_image.items() if count > queries}
    if crowded:
        first = min(crowded)
        yield Problem(
            'warning',
            files.ann_file,
            f'{len(crowded)} images have more objects than the {queries} queries of the model, so '
            f'some are never found. The first: {content.images[first]["file_name"]} with '
            f'{crowded[first]}.',
            'Raise model.num_queries and model.test_cfg.max_per_img.',
        )
