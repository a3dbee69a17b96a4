# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config

from .configs import describe_configs, model_differences, model_state
from .family import PublishedForm
from .mmdet_checkpoint import converted_checkpoint, to_official_checkpoint
from .state_dict import ConversionReport

PathLike = Union[str, os.PathLike]


class UnsafeContentError(ValueError):
    """A file asks for objects that can run code."""


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
    checkpoint, names = read_published(source)
    converted, report = converted_checkpoint(checkpoint, classes or names)
    if config is not None:
        report.take_comparison(model_differences(converted['state_dict'], model_state(config)))
    if config is None or not report.fits:
        report.configs = describe_configs(converted['state_dict'])
    if not report.fits:
        raise ValueError(f'{source} does not fit the model of this config.\n{report}')
    if config is not None and Path(source).is_dir():
        from .transformers_folder import check_config

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
        config (Config, optional): Config of the model, needed where its settings are not those of a
            published model. Defaults to None.
        overwrite (bool): Replace an existing ``target``. Defaults to False.

    Returns:
        str: The family whose names were given.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``target`` is ``source``; ``source`` is no checkpoint, or none of our models.
    """
    checkpoint = load_weights_only(source)
    if to == 'transformers':
        from .transformers_folder import write_transformers

        with new_output(target, overwrite, source, folder=True) as new:
            return write_transformers(checkpoint, new, config)
    points = config.model.decoder.get('points_per_level') if config is not None else None
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
        from .transformers_folder import read_transformers

        return read_transformers(path)
    try:
        return load_weights_only(path), None
    except UnsafeContentError as error:
        from .restricted_pickle import read_pickled_model

        try:
            model = read_pickled_model(path)
        except Exception as damage:
            raise _damaged(path, damage) from damage
        if model is None:
            raise error
        return model


def load_weights_only(path: PathLike) -> Any:
    """Read a PyTorch file without running any code it may contain.

    Args:
        path (str | PathLike): The file.

    Returns:
        Any: What was saved, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no PyTorch file (a git-lfs pointer, a web page), or is truncated.
        UnsafeContentError: It asks for objects that could run code; the message names them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is no file: give the path of a downloaded checkpoint.')
    refuse_other_content(path)
    _refuse_other_format(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        names = _unsafe_globals(path, str(error))
        if not names:  # PyTorch's message advises to switch safety off
            raise _damaged(path, _reason(str(error))) from None
        raise UnsafeContentError(
            f'{path} asks for {", ".join(names)}, which can run code while it is loaded, and was '
            'not loaded. If you trust where it comes from, load it yourself and save its weights '
            "alone: torch.save({'model': weights}, 'weights.pth')."
        ) from None
    except Exception as error:  # whatever bytes in the wrong place lead to
        raise _damaged(path, error) from error


def refuse_other_content(path: PathLike) -> None:
    """Say so when a file is not what its name says, but what a failed download left.

    Args:
        path (str | PathLike): A file.

    Raises:
        ValueError: It is empty, a git-lfs pointer or a web page.
    """
    head = _head(path)
    start = head.lstrip().lower()
    if not head:
        raise ValueError(f'{path} is empty: download it again.')
    if head.startswith(b'version https://git-lfs'):
        raise ValueError(
            f'{path} is a git-lfs pointer, not the file it stands for: run `git lfs pull`, or '
            'download the file itself.'
        )
    if start.startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
        raise ValueError(
            f'{path} is a web page, not a checkpoint: the download led to a page (a login, a '
            'virus-scan warning, an error). Download it in a browser and check its size.'
        )


def _refuse_other_format(path: Path) -> None:
    head = _head(path)
    if head.startswith(b'PK\x03\x04'):
        if not zipfile.is_zipfile(path):  # the directory is at the end of the file
            raise _damaged(path, 'it has no end')
    elif not head.startswith(b'\x80'):  # neither of PyTorch's two formats
        raise ValueError(f'{path} is no PyTorch checkpoint: it starts with {head[:16]!r}.')


def _head(path: PathLike) -> bytes:
    with open(path, 'rb') as file:
        return file.read(512)


def _unsafe_globals(path: Path, message: str) -> List[str]:
    # PyTorch lists all of them from 2.5 on, in its zip format; the error names the first one
    find = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', None)
    if find is not None and zipfile.is_zipfile(path):
        return sorted(find(path))
    dotted = re.findall(r'(?:GLOBAL|global|function|class) ([\w.]+\.\w+)', message)
    return dotted or re.findall(r'GLOBAL (\w+) was', message)  # builtins


def _reason(message: str) -> str:
    found = re.search(r'WeightsUnpickler error: *([^\n]+)', message)
    return found[1] if found else 'its pickle data cannot be read'


def _damaged(path: Path, reason: Union[str, Exception]) -> ValueError:
    return ValueError(
        f'{path} ({path.stat().st_size} bytes) is damaged or truncated: download it again. '
        f'({reason or "end of file"})'
    )


@contextmanager
def new_output(
    target: PathLike,
    overwrite: bool = False,
    source: Optional[PathLike] = None,
    folder: bool = False,
) -> Iterator[Path]:
    """Let a new file or folder appear complete, or not at all.

    Args:
        target (str | PathLike): What to make.
        overwrite (bool): Replace an existing ``target``. A folder is replaced only when the new one
            has entries of all its names, so that nothing else is lost. Defaults to False.
        source (str | PathLike, optional): The input, which is never replaced. Defaults to None.
        folder (bool): Whether a folder is made, not a file. Defaults to False.

    Yields:
        Path: Where to make it, in the same folder; nothing is there yet.

    Raises:
        FileExistsError: ``target`` exists.
        ValueError: ``target`` is ``source``, or is a folder that is not to be replaced.
    """
    target = Path(target)
    _refuse_to_lose(target, overwrite, source, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as hidden:
        new, old = Path(hidden, 'new'), Path(hidden, 'old')
        yield new
        for path in [new, *new.rglob('*')]:
            if path.is_file():
                with open(path, 'rb+') as file:
                    os.fsync(file.fileno())
        if target.is_dir():
            lost = {path.name for path in target.iterdir()} - {path.name for path in new.iterdir()}
            if lost:
                raise ValueError(
                    f'{target} holds other things too ({", ".join(sorted(lost))}), which would be '
                    'lost: give another name for the output.'
                )
            os.replace(target, old)  # a folder cannot replace one that holds something
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise


def _refuse_to_lose(
    target: Path, overwrite: bool, source: Optional[PathLike], folder: bool
) -> None:
    if not target.exists():
        return
    if source is not None and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f'{target} is the input itself: give another name for the output.')
    if folder and target.is_file():
        raise ValueError(f'{target} is a file: give the name of the new folder.')
    if not folder and target.is_dir():
        raise ValueError(f'{target} is a folder: give the name of the new file.')
    if not overwrite:
        raise FileExistsError(f'{target} exists: give another name, or --overwrite.')
