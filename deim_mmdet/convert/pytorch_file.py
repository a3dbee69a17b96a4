# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, List, Union

import torch

from deim_mmdet.compat.broken_files import (
    ZIP,
    damaged,
    file_head,
    refuse_other_content,
    refuse_truncated,
)


class UnsafeContentError(ValueError):
    """A file asks for objects that can run code."""


def load_weights_only(path: Union[str, os.PathLike]) -> Any:
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
    refuse_other_format(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        names = _unsafe_globals(path, str(error))
        if not names:  # PyTorch's message advises to switch safety off
            raise damaged(path, _reason(str(error))) from None
        raise UnsafeContentError(
            f'{path} asks for {", ".join(names)}, which can run code while it is loaded, and was '
            'not loaded. If you trust where it comes from, load it yourself and save its weights '
            "alone: torch.save({'model': weights}, 'weights.pth')."
        ) from None
    except Exception as error:  # whatever bytes in the wrong place lead to
        raise damaged(path, error) from error


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
