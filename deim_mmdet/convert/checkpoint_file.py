# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

import torch

from .state_dict import ConversionReport, convert_state_dict

PathLike = Union[str, os.PathLike]


def convert_checkpoint_file(
    source: PathLike,
    target: PathLike,
    model_state: Optional[dict] = None,
    classes: Optional[Sequence[str]] = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert a published checkpoint into one that MMDetection loads.

    Args:
        source (str | PathLike): Published checkpoint, only read.
        target (str | PathLike): New file. It appears complete or not at all.
        model_state (dict, optional): ``state_dict()`` of the model that the weights must fit.
            Defaults to None: not compared.
        classes (Sequence[str], optional): Names of the classes, stored for ``init_detector``.
            Defaults to None: those of COCO when there are 80 classes, else none.
        overwrite (bool): Replace an existing ``target``. Defaults to False.

    Returns:
        ConversionReport: What became of every key.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``target`` is ``source``; ``source`` is no checkpoint or wants to run code; no
            rule names a key; the weights do not fit ``model_state`` or ``classes``.
    """
    source, target = Path(source), Path(target)
    _refuse_to_lose(source, target, overwrite)
    checkpoint = load_weights_only(source)
    converted, report = convert_state_dict(checkpoint, model_state)
    if not report.fits:
        raise ValueError(f'{source} does not fit the model of this config.\n{report}')

    num_classes = len(converted['query_selection.cls_branch.weight'])
    if classes is None and num_classes == 80:
        classes = _coco_classes()
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f'{source} has {num_classes} classes, {len(classes)} names were given: give one name '
            'per class.'
        )
    meta = dict(converted_from=source.name, weights=report.source)
    if classes is not None:
        meta['dataset_meta'] = dict(classes=tuple(classes))
    if isinstance(checkpoint.get('last_epoch'), int):
        meta['published_epoch'] = checkpoint['last_epoch']
    _save_atomically(dict(meta=meta, state_dict=converted), target)
    return report


def load_weights_only(path: PathLike) -> Any:
    """Read a PyTorch file without running any code it may contain.

    Args:
        path (str | PathLike): The file.

    Returns:
        Any: What was saved, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no PyTorch file (a git-lfs pointer, a web page), is truncated, or asks
            for objects that could run code; the message names them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is no file: give the path of a downloaded checkpoint.')
    _refuse_other_content(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        names = _unsafe_globals(path, str(error))
        what = f'asks for {", ".join(names)}, which' if names else f'holds what ({error})'
        raise ValueError(
            f'{path} {what} can run code while it is loaded, and was not loaded. If you trust '
            'where it comes from, load it yourself and save its weights alone: '
            "torch.save({'model': weights}, 'weights.pth')."
        ) from error
    except Exception as error:  # whatever bytes in the wrong place lead to
        raise _damaged(path, error) from error


def _refuse_other_content(path: Path) -> None:
    with open(path, 'rb') as file:
        head = file.read(512)
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
    if head.startswith(b'PK\x03\x04'):
        if not zipfile.is_zipfile(path):  # the directory is at the end of the file
            raise _damaged(path, 'it has no end')
    elif not head.startswith(b'\x80'):  # neither of PyTorch's two formats
        raise ValueError(f'{path} is no PyTorch checkpoint: it starts with {head[:16]!r}.')


def _unsafe_globals(path: Path, message: str) -> List[str]:
    # PyTorch lists all of them from 2.5 on, in its zip format; the error names the first one
    find = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', None)
    if find is not None and zipfile.is_zipfile(path):
        return sorted(find(path))
    return re.findall(r'(?:GLOBAL|global|function|class) ([\w.]+\.\w+)', message)


def _damaged(path: Path, reason: Union[str, Exception]) -> ValueError:
    return ValueError(
        f'{path} ({path.stat().st_size} bytes) is damaged or truncated: download it again. '
        f'({reason or "end of file"})'
    )


def _refuse_to_lose(source: Path, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise ValueError(f'{target} is a folder: give the name of the new file.')
    if not target.exists():
        return
    if source.exists() and os.path.samefile(source, target):
        raise ValueError(f'{target} is the input itself: give another name for the output.')
    if not overwrite:
        raise FileExistsError(f'{target} exists: give another name, or --overwrite.')


def _save_atomically(checkpoint: dict, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a private file; a checkpoint is as readable as any other new file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _coco_classes() -> Sequence[str]:
    from mmdet.evaluation import get_classes

    return get_classes('coco')
