# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What :mod:`.latency` times of files: each backend that runs them."""

from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence

from deim_mmdet.deploy.runners import BACKENDS

from .latency import Candidate
from .latency_candidates import (
    TITLES,
    Request,
    exported_candidate,
    foreign_candidate,
    is_foreign,
    onnxruntime_has_cuda,
)


def makers_of_files(files: Sequence[Path], request: Request) -> Dict[str, Callable[[], Candidate]]:
    """What makes each candidate, by its name.

    Args:
        files (Sequence[Path]): What ``tools/export.py`` wrote; of another program's ONNX, the graph
            is timed in ONNX Runtime.
        request (Request): What is wanted; without backends, each file runs where its ending says.

    Raises:
        ValueError: TensorRT on a CPU; no ONNX file.
    """
    makers = {}
    for file, label in zip(files, labels_of(files)):
        makers.update(makers_of_file(file, label, request))
    return makers


def labels_of(files: Sequence[Path]) -> List[str]:
    """Names of the files; of those that share one, paths."""
    names = [file.name for file in files]
    return [str(file) if names.count(file.name) > 1 else file.name for file in files]


def makers_of_file(file: Path, label: str, request: Request) -> Dict[str, Callable[[], Candidate]]:
    backends = [BACKENDS[file.suffix]]
    if request.backends:
        able = TITLES if file.suffix == '.onnx' else backends
        backends = [backend for backend in request.backends if backend in able]
    if request.device == 'cpu' and 'tensorrt' in backends:
        raise ValueError(f'{file}: TensorRT runs on GPUs alone: leave it or --device cpu out')
    names = {backend: f'{TITLES[backend]}, {label}' for backend in backends}
    if backends == ['onnxruntime'] and is_foreign(file):
        (name,) = names.values()
        return {name: partial(foreign_candidate, name, file, request.protocol)}
    device = request.device or default_device(backends)
    return {
        name: partial(exported_candidate, name, file, backend, request.protocol, device)
        for backend, name in names.items()
    }


def default_device(backends: Sequence[str]) -> str:
    """For ONNX Runtime the GPU, where its build has one; the others know by themselves."""
    try:
        return 'cuda' if 'onnxruntime' in backends and onnxruntime_has_cuda() else 'cpu'
    except ImportError:
        return 'cpu'
