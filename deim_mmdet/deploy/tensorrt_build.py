# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""From an exported graph to a TensorRT engine. Needs TensorRT and onnx, no PyTorch.

Engines that are built where they run are kept by :mod:`.tensorrt_cache`; what the files say, and
where they run, is in :mod:`.tensorrt_file`.
"""

import math
import os
from pathlib import Path
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from deim_mmdet.new_output import new_output, new_outputs, refuse_to_lose

from . import tensorrt_api
from .cuda import Gpu, open_gpu
from .metadata import DIVISOR, KEY, Metadata
from .runners.runner import import_backend
from .tensorrt_api import TensorRT
from .tensorrt_file import EngineInfo, PathLike, description_of, sha256_of

Range = Tuple[int, int, int]

BATCHES = (1, 1, 8)
# From a thumbnail to 4K, for graphs that resize.
IMAGE_SIZES = {'height': (32, 720, 2160), 'width': (32, 1280, 3840)}
# TensorRT-RTX multiplies float32 matrices from Ampere on.
TURING = '7.5'
# What it says about each step where there is no GPU.
NOISE = '[checkMacros.cpp::catchCudaError'


class OnnxFile(NamedTuple):
    """An ONNX file as far as building needs to know it.

    Attributes:
        path (Path): The file.
        data (bytes): What is in it.
        metadata (Metadata): What it says about itself.
        inputs (dict[str, tuple[int | str]]): Shape of each input; what may differ has a name.
        single_products (list[str]): Nodes that multiply float32 matrices by weights.
    """

    path: Path
    data: bytes
    metadata: Metadata
    inputs: Dict[str, Tuple[Union[int, str], ...]]
    single_products: List[str]

    @property
    def hash(self) -> str:
        return sha256_of(self.data)


def build_engine(
    onnx_path: PathLike,
    out: PathLike,
    compute_capabilities: Optional[Sequence[str]] = None,
    shapes: Optional[Mapping[str, Range]] = None,
    timing_cache: Optional[PathLike] = None,
    overwrite: bool = False,
    flavour: Optional[str] = None,
    tf32: bool = False,
    detailed: bool = False,
    device: int = 0,
    check: Optional[Callable[[Path], None]] = None,
) -> EngineInfo:
    """Build an engine and write it with its description.

    Args:
        onnx_path (str | PathLike): What ``tools/export.py`` wrote.
        out (str | PathLike): New file ``NAME.engine``; ``NAME.engine.json`` appears beside it.
        compute_capabilities (Sequence[str], optional): GPUs to build for, as ('7.5',) for the T4;
            no GPU is needed then, and TensorRT-RTX runs the engine. None: the GPU at hand.
        shapes (Mapping[str, tuple[int, int, int]], optional): Smallest, best and largest value of
            each dimension of a dynamic graph, by the names ``batch``, ``height`` and ``width``.
            Left out: 1, 1 and 8 images; half, once and one and a half times the size of training;
            of graphs that resize, images from 32 x 32 over 720 x 1280 to 2160 x 3840.
        timing_cache (str | PathLike, optional): File with what TensorRT has measured before, which
            makes building faster; it is made or completed. Anything else in the file is refused.
        overwrite (bool): Replace existing files. Defaults to False.
        flavour (str, optional): 'tensorrt' or 'tensorrt_rtx', see :func:`tensorrt_api.load`.
        tf32 (bool): Let inputs of float32 products be rounded to 10 bits of mantissa, as many as
            float16 has, which is faster from Ampere on. Defaults to False.
        detailed (bool): Keep the layers' types and shapes in the engine, for profilers.
        device (int): Number of the GPU at hand. Defaults to 0.
        check (callable, optional): Gets the finished engine, with its description beside it, in
            another folder; if it raises, nothing is left at ``out``.

    Raises:
        FileExistsError: One of the files exists.
        FileNotFoundError: There is no graph.
        GpuError: The GPU fails.
        ImportError: onnx or TensorRT is missing.
        ValueError: A graph, shapes or compute capabilities for which there can be no engine; no GPU
            where none is named.
        UnusableTimingCache: It is of another GPU or version, or something else.
    """
    out = Path(out)
    for path in (out, description_of(out)):
        refuse_to_lose(path, overwrite, onnx_path)
    graph = read_graph(onnx_path)
    trt, gpu, capabilities = choose_target(flavour, compute_capabilities, device)
    if graph.single_products:
        first, *more = graph.single_products
        refuse_single_products(
            trt, capabilities, f'{graph.path} does ({first} and {len(more)} more)'
        )
    if trt.is_rtx and timing_cache is not None:
        raise ValueError(f'{trt.name} measures nothing while it builds: leave timing_cache out')
    ranges = input_shapes(graph, shapes or {})
    with new_outputs([out, description_of(out)], overwrite, onnx_path) as (new, description):
        ahead = capabilities if gpu is None else None
        plan = bytes(build_plan(trt, graph, ranges, ahead, timing_cache, tf32, detailed))
        new.write_bytes(plan)
        info = EngineInfo(
            metadata=graph.metadata,
            flavour=trt.flavour,
            version=trt.version,
            compute_capabilities=capabilities,
            gpu=gpu.name if gpu and not trt.is_rtx else None,
            graph=graph.hash,
            shapes=ranges,
            tf32=tf32,
            size=len(plan),
            sha256=sha256_of(plan),
        )
        description.write_text(info.to_json())
        if check is not None:
            check(new)
    return info


def choose_target(
    flavour: Optional[str], capabilities: Optional[Sequence[str]], device: int = 0
) -> Tuple[TensorRT, Optional[Gpu], Tuple[str, ...]]:
    """What builds, the GPU if it is to be at hand, and the compute capabilities.

    Args:
        flavour, capabilities, device: As for :func:`build_engine`.
    """
    trt = tensorrt_api.load(flavour, ahead_of_time=capabilities is not None)
    if capabilities is not None:
        return trt, None, trt.check_capabilities(capabilities)
    try:
        gpu = open_gpu(device)
    except ValueError as error:
        raise ValueError(
            f'{error}. To build for a GPU that is elsewhere, name its compute capability '
            '(--compute-capability 7.5 for the T4)'
        ) from None
    return trt, gpu, (gpu.capability,)


def refuse_single_products(trt: TensorRT, capabilities: Sequence[str], who: str) -> None:
    """Refuse to multiply float32 matrices where the library cannot.

    Args:
        trt, capabilities: See :func:`choose_target`.
        who (str): What multiplies them, as 'DFINE does'.

    Raises:
        ValueError: It is to be done by TensorRT-RTX on Turing.
    """
    if trt.is_rtx and TURING in capabilities:
        raise ValueError(
            f'{trt.name} multiplies no float32 matrices on compute capability {TURING} (Turing, as '
            f'the T4), {who}: export with --fp16, or build with TensorRT on that GPU'
        )


def read_graph(path: PathLike) -> OnnxFile:
    """Read an ONNX file.

    Raises:
        FileNotFoundError: There is none.
        ImportError: onnx is missing.
        ValueError: Something else, or not written by ``tools/export.py`` of this version.
    """
    onnx = import_backend('onnx')
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    data = path.read_bytes()
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf has classes of its own
        raise ValueError(f'{path} is no ONNX file: {error}') from None
    text = {entry.key: entry.value for entry in model.metadata_props}.get(KEY)
    metadata = Metadata.from_json(text, str(path))
    graph = model.graph
    single = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    products = [
        node.name
        for node in graph.node
        if node.op_type in ('MatMul', 'Gemm') and single.intersection(node.input[:2])
    ]
    inputs = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in graph.input
    }
    return OnnxFile(path, data, metadata, inputs, products)


def check_graph(path: PathLike, onnx_path: PathLike) -> None:
    """Refuse a graph that an engine was not built of.

    An engine whose description is missing or illegible does not say of which it was.

    Raises:
        FileNotFoundError: There is no such graph.
        ValueError: It is another one.
    """
    graph = read_graph(onnx_path)
    try:
        info = EngineInfo.from_json(description_of(path).read_text(), str(path))
    except (OSError, ValueError):
        return
    if graph.hash != info.graph:
        raise ValueError(
            f'{onnx_path} is not the graph that {path} was built of (SHA-256 {graph.hash[:12]}... '
            f'and {info.graph[:12]}...): give that one, or open {onnx_path} itself with '
            "backend='tensorrt'"
        )


def input_shapes(
    graph: OnnxFile, shapes: Mapping[str, Range]
) -> Dict[str, Tuple[Tuple[int, ...], ...]]:
    """Smallest, best and largest shape of each input.

    Raises:
        ValueError: A dimension that the graph does not have, or a range that is none.
    """
    names = [side for sides in graph.inputs.values() for side in sides if isinstance(side, str)]
    meta = graph.metadata
    ranges = dict.fromkeys(names, BATCHES)
    for name, side in zip(('height', 'width'), meta.hw):
        if name in ranges and meta.resize:
            ranges[name] = IMAGE_SIZES[name]
        elif name in ranges:
            half, more = (math.ceil(side * part / DIVISOR) * DIVISOR for part in (0.5, 1.5))
            ranges[name] = (half, side, more)
    for name, values in shapes.items():
        if name not in ranges:
            known = ', '.join(ranges) or 'none, every size is fixed'
            raise ValueError(
                f'shapes: {graph.path} has no dimension {name!r} that may differ from run to run; '
                f'it has {known}. Export with --dynamic-batch or --dynamic-size'
            )
        values = tuple(values)
        if len(values) != 3 or not 1 <= values[0] <= values[1] <= values[2]:
            raise ValueError(
                f'shapes: the smallest, best and largest {name} must be rising and positive, got '
                f'{values}'
            )
        free = name == 'batch' or meta.resize or meta.pad
        if not free and any(value % DIVISOR for value in values):
            raise ValueError(f'shapes: {name} must be multiples of {DIVISOR}, got {values}')
        ranges[name] = values
    return {
        name: tuple(tuple(ranges.get(side, (side,) * 3)[i] for side in sides) for i in range(3))
        for name, sides in graph.inputs.items()
    }


def build_plan(
    trt: TensorRT,
    graph: OnnxFile,
    ranges: Dict[str, Tuple[Tuple[int, ...], ...]],
    capabilities: Optional[Sequence[str]] = None,
    timing_cache: Optional[PathLike] = None,
    tf32: bool = False,
    detailed: bool = False,
):
    """The engine itself, without files.

    Args:
        trt (TensorRT): What builds it.
        graph (OnnxFile): Its name and contents are read.
        ranges (dict[str, tuple]): Smallest, best and largest shape of each input.
        capabilities, timing_cache, tf32, detailed: As for :func:`build_engine`.

    Returns:
        IHostMemory: Bytes.

    Raises:
        ValueError: TensorRT cannot read the graph, or finds no way to compute it.
        UnusableTimingCache: It is of another GPU or version, or something else.
    """
    logger = trt.new_logger()
    builder = trt.module.Builder(logger)
    if builder is None:
        raise _failed(graph, trt, logger)
    network = trt.create_network(builder)
    parser = trt.module.OnnxParser(network, logger)
    if not parser.parse(graph.data):
        suppresses = any(
            parser.get_error(i).node_operator() == 'NonMaxSuppression'
            for i in range(parser.num_errors)
        )
        hint = '. Export with --candidates, which leaves it to Detector' if suppresses else ''
        raise ValueError(f'{trt.name} cannot read {graph.path}: {_parser_errors(parser)}{hint}')
    config = builder.create_builder_config()
    trt.set_capabilities(config, capabilities)
    if not tf32:
        config.clear_flag(trt.module.BuilderFlag.TF32)
    if detailed:
        config.profiling_verbosity = trt.module.ProfilingVerbosity.DETAILED
    if any(smallest != largest for smallest, _, largest in ranges.values()):
        profile = builder.create_optimization_profile()
        for name, (smallest, best, largest) in ranges.items():
            profile.set_shape(name, smallest, best, largest)
        config.add_optimization_profile(profile)
    cache = _load_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(graph, trt, logger)
    if cache is not None:
        with new_output(timing_cache, overwrite=True) as new:
            new.write_bytes(cache.serialize())
    return plan


class UnusableTimingCache(ValueError):
    """TensorRT does not take what is in the file."""


def _load_timing_cache(config, path: Optional[PathLike]):
    """What was measured before; None: nothing is to be kept."""
    if path is None:
        return None
    old = Path(path).read_bytes() if os.path.isfile(path) else b''
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise UnusableTimingCache(
            f'{path} is no timing cache of this GPU and version of TensorRT, and would be '
            'replaced: name another file, or delete it'
        )
    return cache


def _parser_errors(parser) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return '; '.join(
        f'node {e.node_name()} ({e.node_operator()}): {_clean(e.desc())}' for e in errors
    )


def _failed(graph: OnnxFile, trt: TensorRT, logger) -> ValueError:
    reasons = [_clean(message) for message in logger.errors if not message.startswith(NOISE)]
    return ValueError(
        f'{trt.name} cannot build an engine of {graph.path}: '
        f'{"; ".join(reasons) or "it does not say why"}'
    )


def _clean(message: str) -> str:
    lines = [line.strip() for line in message.splitlines()]
    return ' '.join(line for line in lines if line and not line.startswith(NOISE))
