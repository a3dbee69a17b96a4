# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Says what a file is that is no checkpoint, where PyTorch reports an invalid load key."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Union

from mmengine.runner import checkpoint as mmengine_checkpoint

PathLike = Union[str, os.PathLike]
ZIP = b'PK\x03\x04'  # PyTorch's format since 1.6


def install():
    """Lets mmengine look at a local file before it loads it, for ``load_from`` and the rest."""
    mmengine_checkpoint.CheckpointLoader.register_scheme('', load_from_local, force=True)


def load_from_local(filename: str, map_location: Any) -> Any:
    """mmengine's loader of local files, which refuses what a failed download left.

    Args:
        filename (str): Path of a checkpoint.
        map_location (str | Callable): See ``torch.load``.

    Returns:
        Any: What was saved.

    Raises:
        ValueError: It is a folder, or damaged; see also :func:`refuse_other_format`.
        UnpicklingError: It asks for what could run code, and nothing was run.
    """
    path = Path(filename).expanduser()
    if path.is_dir():
        raise ValueError(
            f'{path} is a folder: name a checkpoint in it. A folder of transformers becomes one by '
            'tools/convert_weights.py.'
        )
    if path.is_file():
        refuse_other_format(path)
    try:
        return mmengine_checkpoint.load_from_local(filename, map_location)
    except pickle.UnpicklingError as error:  # PyTorch's message advises to switch safety off
        if re.search('Unsupported operand|invalid load key|truncated', str(error)):
            raise damaged(path, _reason(error)) from None
        raise pickle.UnpicklingError(
            f'{path} holds more than weights, and was not loaded ({_reason(error)}). A .pt '
            'file that holds a whole model, as those of YOLOv8 do, becomes a checkpoint by '
            'tools/convert_weights.py, which reads its tensors and runs nothing.'
        ) from None


def _reason(error: pickle.UnpicklingError) -> str:
    """What a file asks for, without PyTorch's advice to switch safety off."""
    text = ' '.join(str(error).split())
    asked = re.search(r'GLOBAL [\w.]+', text)
    if asked:
        return f'it asks for {asked[0]}'
    found = re.search(r'WeightsUnpickler error: (.*?)(?: Check the documentation|$)', text)
    return found[1] if found else text


def refuse_other_format(path: Path) -> None:
    """Refuse what no program can have written as a checkpoint, before it is unpickled.

    Raises:
        ValueError: It is something else, as an image, or is truncated; the message says which.
    """
    refuse_other_content(path)
    refuse_truncated(path)
    head = file_head(path)
    if not head.startswith((ZIP, b'\x80')):  # PyTorch's two formats
        raise _no_checkpoint(path, f'it starts with {head[:16]!r}')
    if head.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise damaged(path, error) from None
        if not any(name.endswith('/data.pkl') for name in names):
            raise _no_checkpoint(path, 'it is an archive of other files')


def _no_checkpoint(path: Path, reason: str) -> ValueError:
    return ValueError(
        f'{path} is no PyTorch checkpoint: {reason}. Give the weights of a run here, or published '
        'ones (.pth).'
    )


def refuse_other_content(path: PathLike) -> None:
    """Say so when a file is not what its name says, but what a failed download left.

    Args:
        path (str | PathLike): A file.

    Raises:
        ValueError: It is empty, a git-lfs pointer or a web page.
    """
    head = file_head(path)
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


def refuse_truncated(path: PathLike) -> None:
    """Say so when a file of PyTorch's zip format has no end, where its directory is.

    Args:
        path (str | PathLike): A file.

    Raises:
        ValueError: It has no end.
    """
    if file_head(path).startswith(ZIP) and not zipfile.is_zipfile(path):
        raise damaged(path, 'it has no end')


def damaged(path: PathLike, reason: object) -> ValueError:
    """The error for a file whose content is not complete.

    Args:
        path (str | PathLike): The file.
        reason (object): What was noticed; printed.

    Returns:
        ValueError: To be raised.
    """
    return ValueError(
        f'{path} ({os.path.getsize(path)} bytes) is damaged or truncated: download it again. '
        f'({reason or "end of file"})'
    )


def file_head(path: PathLike) -> bytes:
    """First bytes of a file, as far as they tell what it is."""
    with open(path, 'rb') as file:
        return file.read(512)
