# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What runs exported files. Needs NumPy and the backend that is asked for, nothing else."""

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Optional, Union

from .runner import Runner

# backend -> module, class
RUNNERS = {
    'onnxruntime': ('onnxruntime_runner', 'OnnxRuntimeRunner'),
    'openvino': ('openvino_runner', 'OpenVINORunner'),
    'tensorrt': ('tensorrt_runner', 'TensorRTRunner'),
}
BACKENDS = {'.onnx': 'onnxruntime', '.xml': 'openvino', '.engine': 'tensorrt'}

__all__ = ['BACKENDS', 'RUNNERS', 'Runner', 'open_runner']


def open_runner(
    path: Union[str, os.PathLike],
    backend: Optional[str] = None,
    threads: Optional[int] = None,
    **options,
) -> Runner:
    """Open an exported file.

    Args:
        path (str | PathLike): What ``tools/export.py`` wrote.
        backend (str, optional): 'onnxruntime' (.onnx), 'openvino' (.xml, .onnx) or 'tensorrt'
            (.engine, .onnx). Defaults to None: by the ending of the file, the first that is named
            for it.
        threads (int, optional): Threads of the CPU; None lets the backend choose.
        options: Those of the backend's runner.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The backend is missing; the message says what to install.
        TypeError: ``path`` is no path; an option that the runner does not have.
        ValueError: A folder, an unknown backend or ending, fewer threads than one, or a file that
            the backend or this version of deim_mmdet cannot read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f'path must be that of an exported file, as "model.onnx", got {type(path).__name__}'
        )
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder; give the exported file: {", ".join(BACKENDS)}')
    backend = backend or BACKENDS.get(path.suffix)
    if backend is None:
        raise ValueError(
            f'{path}: no backend runs *{path.suffix} by default, known are '
            f'{", ".join(BACKENDS)}; name one (backend={next(iter(RUNNERS))!r}) to try it'
        )
    if backend not in RUNNERS:
        raise ValueError(f'backend must be one of {", ".join(RUNNERS)}, got {backend!r}')
    if threads is not None and threads < 1:
        raise ValueError(f'threads must be at least 1, got {threads}')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    if not path.stat().st_size:
        raise ValueError(f'{path} is empty: copy it again, or export the checkpoint again')
    module, name = RUNNERS[backend]
    cls = getattr(import_module(f'.{module}', __name__), name)
    known = [key for key in inspect.signature(cls).parameters if key not in ('path', 'threads')]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise TypeError(
            f'backend {backend} takes the options {", ".join(known)}, not {", ".join(unknown)}'
        )
    return cls(path, threads=threads, **options)
