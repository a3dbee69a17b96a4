# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config

from deim_mmdet.compat.broken_files import damaged

from ..new_output import new_output, refuse_to_lose
from .configs import (
    describe_configs,
    model_of,
    model_state,
    refuse_other_weights,
)
from .family import PublishedForm
from .mmdet_checkpoint import converted_checkpoint, to_official_checkpoint
from .pytorch_file import UnsafeContentError, load_weights_only
from .restricted_pickle import read_pickled_model
from .state_dict import ConversionReport, is_published, refuse_other_objects
from .transformers_folder import check_config, read_transformers, write_transformers

PathLike = Union[str, os.PathLike]


def convert_checkpoint_file(
    source: PathLike,
    target: PathLike,
    config: Optional[Config] = None,
    classes: Optional[Sequence[str]] = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert a published checkpoint into one that MMDetection loads.

    Args:
        source (str | PathLike): Published checkpoint, see :func:`read_published`; only read.
        target (str | PathLike): New file. It appears complete or not at all.
        config (Config, optional): Config whose model the weights must fit, but for the number of
            classes. Defaults to None: the report names the configs of this package that fit.
        classes (Sequence[str], optional): Names of the classes, stored for ``init_detector``.
            Defaults to None: those that the source names, else those of COCO or Objects365, by
            their number, else none.
        overwrite (bool): Replace an existing ``target``. Defaults to False.

    Returns:
        ConversionReport: What became of every key.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``target`` is ``source``; ``source`` is no checkpoint or wants to run code; no
            rule names a key; the weights do not fit ``config`` or ``classes``.
    """
    refuse_to_lose(target, overwrite, source)
    checkpoint, names = read_published(source)
    model = None if config is None else model_state(config)
    converted, report = converted_checkpoint(checkpoint, classes or names, model)
    if config is None or not report.fits:
        report.configs = describe_configs(converted['state_dict'])
    if not report.fits:
        raise ValueError(f'{source} does not fit the model of this config.\n{report}')
    if config is not None and Path(source).is_dir():
        check_config(Path(source), config.model)
    converted['meta']['converted_from'] = Path(source).name
    with new_output(target, overwrite, source) as new:
        torch.save(converted, new)
    return report


def export_checkpoint_file(
    source: PathLike,
    target: PathLike,
    to: str = 'official',
    family: Optional[str] = None,
    config: Optional[Config] = None,
    overwrite: bool = False,
) -> str:
    """Write an MMDetection checkpoint of one of our models in a published layout.

    Args:
        source (str | PathLike): MMDetection checkpoint, only read. Its ``state_dict`` is taken,
            which is the moving average where training kept one.
        target (str | PathLike): New file ('official', see :func:`to_official_checkpoint`), or new
            folder ('transformers'). It appears complete or not at all.
        to (str): 'official' or 'transformers'. Defaults to 'official'.
        family (str, optional): Name of the family, where several fit. Defaults to None: the one it
            was converted from, else the first that fits.
        config (Config, optional): Config of the model, which the weights must fit, but for the
            number of classes; needed for 'transformers', and where its settings are not those of a
            published model. Defaults to None.
        overwrite (bool): Replace an existing ``target``. Defaults to False.

    Returns:
        str: The family whose names were given.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``target`` is ``source``; ``source`` is no checkpoint, or none of our models;
            the weights do not fit ``config``.
    """
    refuse_to_lose(target, overwrite, source, folder=to == 'transformers')
    checkpoint = load_weights_only(source)
    refuse_other_objects(checkpoint)
    if to == 'transformers':
        with new_output(target, overwrite, source, folder=True) as new:
            return write_transformers(checkpoint, new, config)
    points = None
    if config is not None:
        points = model_of(config).get('decoder', {}).get('points_per_level')
        if not is_published(checkpoint):  # which is refused as such
            refuse_other_weights(checkpoint.get('state_dict', checkpoint), config)
    form = PublishedForm(points_per_level=points)
    official, name = to_official_checkpoint(checkpoint, family, form)
    with new_output(target, overwrite, source) as new:
        torch.save(official, new)
    return name


def read_published(path: PathLike) -> Tuple[Any, Optional[Sequence[str]]]:
    """Read what ``--to mmdet`` takes: a PyTorch file, or what `transformers` saves.

    Of a file that holds a model, not its weights, the tensors are read, and nothing is run: see
    :mod:`deim_mmdet.convert.restricted_pickle`.

    Args:
        path (str | PathLike): A ``.pth`` file, a ``.safetensors`` file, or a folder that holds one.

    Returns:
        tuple[Any, Sequence[str] | None]: What was saved, and the names of its classes if it has
        them.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no checkpoint, is truncated, or wants to run code and holds no model.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == '.safetensors':
        return read_transformers(path)
    try:
        return load_weights_only(path), None
    except UnsafeContentError as error:
        try:
            model = read_pickled_model(path)
        except Exception as damage:
            raise damaged(path, damage) from damage
        if model is None:
            raise error
        return model
