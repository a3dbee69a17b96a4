# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""TensorRT engines that were built where they run, and are kept there.

Beside them are TensorRT's timing caches, which make building faster.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Mapping, Optional

from . import tensorrt_api
from .cuda import Gpu
from .locked import locked
from .tensorrt_api import LOGGER
from .tensorrt_build import Range, UnusableTimingCache, build_engine, input_shapes, read_graph
from .tensorrt_file import FORMAT, PathLike, read_engine


def default_cache() -> Path:
    """Folder of engines that were built where they run."""
    root = os.environ.get('XDG_CACHE_HOME') or Path('~', '.cache')
    return Path(root).expanduser() / 'deim_mmdet' / 'engines'


def cached_engine(
    onnx_path: PathLike,
    gpu: Gpu,
    engine_cache: Optional[PathLike] = None,
    shapes: Optional[Mapping[str, Range]] = None,
    flavour: Optional[str] = None,
) -> Path:
    """The engine of a graph for a GPU of this machine, which is built at the first call.

    Processes that need the same engine at once build it once: the others wait.

    Args:
        onnx_path, shapes, flavour: As for :func:`build_engine`.
        gpu (Gpu): The GPU.
        engine_cache (str | PathLike, optional): Folder of engines; None: :func:`default_cache`.
            TensorRT's timing cache and TensorRT-RTX's cache of kernels are there as well.

    Returns:
        Path: The engine, with its description beside it.

    Raises:
        FileNotFoundError, GpuError, ImportError, ValueError: As of :func:`build_engine`.
        OSError: The folder cannot be written to.
    """
    graph = read_graph(onnx_path)
    trt = tensorrt_api.load(flavour)
    machine = f'{trt.flavour}-{trt.version}_sm{gpu.capability.replace(".", "")}'
    model = gpu.name if not trt.is_rtx else ''
    parts = [FORMAT, graph.hash, model, input_shapes(graph, shapes or {})]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    folder = Path(engine_cache or default_cache())
    path = folder / f'{graph.path.stem}_{graph.metadata.precision}_{machine}_{key}.engine'
    if _is_whole(path):
        return path
    with locked(f'{path}.lock'):
        if _is_whole(path):  # built by another process meanwhile
            return path
        LOGGER.info('building %s', path)
        timing = None if trt.is_rtx else folder / f'timing_{machine}_{slug(gpu.name)}.cache'
        settings = dict(
            shapes=shapes,
            timing_cache=timing,
            overwrite=True,
            flavour=trt.flavour,
            device=gpu.index,
        )
        try:
            build_engine(onnx_path, path, **settings)
        except UnusableTimingCache:
            LOGGER.warning('%s is damaged: everything is measured again', timing)
            timing.unlink()
            build_engine(onnx_path, path, **settings)
    return path


def _is_whole(path: Path) -> bool:
    """Whether an engine of the cache is complete and of this format; its name says that it fits."""
    try:
        read_engine(path)
    except FileNotFoundError:
        return False
    except ValueError as error:
        LOGGER.warning('%s; it is built again', error)
        return False
    return True


def slug(name: str) -> str:
    """A name as part of a file's."""
    return ''.join(c if c.isalnum() else '-' for c in name)
