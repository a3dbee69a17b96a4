# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, List, Union

import torch

from deim_mmdet.compat.broken_files import damaged, refuse_other_format


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
