# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""TensorRT engines as files: what they say about themselves, and where they run.

``NAME.engine`` is the plan as TensorRT serialises it, which trtexec and Triton Inference Server
load as it is; ``NAME.engine.json`` says what it is for. Reading both needs no TensorRT.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Dict, Optional, Tuple, Union

from . import tensorrt_api
from .cuda import Gpu, GpuError, open_gpu
from .metadata import Metadata
from .tensorrt_api import TensorRT

PathLike = Union[str, os.PathLike]

# Rises when a reader of older files would misunderstand newer ones, or the other way round.
FORMAT = 1


@dataclass(frozen=True)
class EngineInfo:
    """What ``NAME.engine.json`` says about ``NAME.engine``.

    Attributes:
        metadata (Metadata): What the graph says about itself.
        flavour (str): 'tensorrt' or 'tensorrt_rtx'.
        version (str): Its version, the only one that runs the engine.
        compute_capabilities (tuple[str]): Of the GPUs that run it, as '7.5'.
        gpu (str, optional): Name of the GPU that it was built on, if it runs on such ones alone.
        graph (str): SHA-256 of the ONNX file.
        shapes (dict[str, tuple]): Smallest, best and largest shape of each input.
        tf32 (bool): Whether float32 products are rounded to TF32.
        size (int): Bytes of the engine.
        sha256 (str): SHA-256 of the engine.
    """

    metadata: Metadata
    flavour: str
    version: str
    compute_capabilities: Tuple[str, ...]
    gpu: Optional[str]
    graph: str
    shapes: Dict[str, Tuple[Tuple[int, ...], ...]]
    tf32: bool
    size: int
    sha256: str

    @property
    def built_by(self) -> str:
        """As 'TensorRT-RTX 1.7.1'."""
        return f'{tensorrt_api.FLAVOURS[self.flavour][1]} {self.version}'

    def to_json(self) -> str:
        values = {**asdict(self), 'metadata': json.loads(self.metadata.to_json())}
        lines = (f'  "{key}": {json.dumps(v)}' for key, v in dict(format=FORMAT, **values).items())
        return '{\n' + ',\n'.join(lines) + '\n}\n'

    @classmethod
    def from_json(cls, text: str, path: str) -> 'EngineInfo':
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: It is something else, or of another format.
        """
        try:
            values = json.loads(text)
            found = values['format']
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path} was not written by deim_mmdet. {_again()}') from None
        if found != FORMAT:
            raise ValueError(
                f'{path} is of format {found}, this version of deim_mmdet reads format {FORMAT}. '
                f'{_again()}'
            )
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise ValueError(f'{path} does not state {", ".join(missing)}. {_again()}')
        values = {field.name: values[field.name] for field in fields(cls)}
        values['metadata'] = Metadata.from_json(json.dumps(values['metadata']), path)
        values['compute_capabilities'] = tuple(values['compute_capabilities'])
        values['shapes'] = {k: tuple(map(tuple, v)) for k, v in values['shapes'].items()}
        return cls(**values)


def description_of(path: PathLike) -> Path:
    """``NAME.engine.json`` of ``NAME.engine``."""
    return Path(f'{path}.json')


def read_engine(path: PathLike) -> Tuple[EngineInfo, bytes]:
    """Description and contents of an engine.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its description is missing or is of something else, or it is not complete.
    """
    path, description = Path(path), description_of(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    if not description.is_file():
        raise ValueError(
            f'{description} is missing, which says how images are prepared for {path.name} and '
            f'where it runs: copy both files. {_again()}'
        )
    info = EngineInfo.from_json(description.read_text(), str(description))
    plan = path.read_bytes()
    if len(plan) != info.size:
        raise ValueError(
            f'{path} has {len(plan)} bytes, {description.name} says {info.size}: one of them was '
            f'not copied, or not to its end. Copy both files. {_again()}'
        )
    if sha256_of(plan) != info.sha256:
        raise ValueError(
            f'{path} is damaged, or another engine than {description.name} tells of. Copy both '
            f'files. {_again()}'
        )
    return info, plan


def check_library(info: EngineInfo, path: PathLike, trt: TensorRT) -> None:
    """Refuse the engine of another library or version.

    Raises:
        ValueError: It is one; the message names both.
    """
    if (info.flavour, info.version) != (trt.flavour, trt.version):
        raise ValueError(
            f'{path} was built by {info.built_by}, which alone can run it; here is '
            f'{trt.name}. {_again()}'
        )


def check_gpu(info: EngineInfo, path: PathLike, gpu: Gpu) -> None:
    """Refuse the engine for another GPU.

    Raises:
        ValueError: It is one; the message names both.
    """
    if gpu.capability not in info.compute_capabilities:
        raise ValueError(
            f'{path} is for GPUs of compute capability {", ".join(info.compute_capabilities)}; '
            f'here is {gpu}. {_again()}'
        )
    if info.gpu not in (None, gpu.name):
        raise ValueError(
            f'{path} was built on {info.gpu}, for GPUs of that model; here is {gpu.name}. '
            f'{_again()}'
        )


def why_not_here(path: PathLike) -> Optional[str]:
    """What keeps an engine from running on this machine; None: nothing that is known."""
    try:
        info, _ = read_engine(path)
        check_library(info, path, tensorrt_api.load(info.flavour))
        check_gpu(info, path, open_gpu())
    except (GpuError, ImportError, ValueError) as error:
        return str(error)
    return None


def _again() -> str:
    return (
        'Build it again for this machine: tools/export.py --backend tensorrt, or '
        "Detector('NAME.onnx', backend='tensorrt')"
    )


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
