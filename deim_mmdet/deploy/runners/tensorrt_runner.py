# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from deim_mmdet.new_output import new_output

from .. import tensorrt_api
from ..cuda import Buffer, GpuError, Stream, open_gpu, use
from ..tensorrt_api import LOGGER, TensorRT
from ..tensorrt_build import Range, check_graph
from ..tensorrt_cache import cached_engine, default_cache, slug
from ..tensorrt_file import EngineInfo, check_gpu, check_library, read_engine
from .runner import Runner

# Combinations of shapes that are kept ready to run; each has memory of its own.
MAX_SHAPES = 8


class TensorRTRunner(Runner):
    """TensorRT or TensorRT-RTX on an NVIDIA GPU.

    For each combination of input shapes there are buffers in pinned memory, an execution context
    and a CUDA graph, all of which are made when it comes for the first time. A run then is one copy
    to the GPU per input, one launch, and one copy back per output, on a stream of its own. Calls
    from several threads follow each other.

    Args:
        path (str | PathLike): An engine with its ``.json`` beside it, or the ONNX file to build one
            of for the GPU at hand, which is kept.
        threads (int, optional): Not used.
        onnx (str | PathLike, optional): The graph, for an engine that does not run here: it is
            built again then and kept, the file stays as it is. Another graph than that of the
            engine is refused. Defaults to None: refuse the engine.
        engine_cache (str | PathLike, optional): Folder of what is built and compiled here. Defaults
            to ``~/.cache/deim_mmdet/engines``.
        shapes (Mapping[str, tuple[int, int, int]], optional): Smallest, best and largest size of
            the dimensions of a dynamic graph, for building, see :func:`build_engine`.
        flavour (str, optional): 'tensorrt' or 'tensorrt_rtx'. Defaults to None: the one that built
            the engine; for building, the first of them that is installed.
        device (int): Number of the GPU. Defaults to 0.
        cuda_graphs (bool): Launch all of the kernels at once. Defaults to True.

    Attributes:
        info (EngineInfo): What is known about the engine.

    Raises:
        FileNotFoundError: There is no such file.
        GpuError: The GPU fails.
        ImportError: TensorRT or cuda-bindings is missing.
        ValueError: No GPU; an engine that is damaged, without its description, or for another GPU
            or version; a graph that TensorRT cannot build, or that is not the engine's.
    """

    device = 'cuda'

    def __init__(
        self,
        path: Union[str, os.PathLike],
        threads: Optional[int] = None,
        onnx: Optional[Union[str, os.PathLike]] = None,
        engine_cache: Optional[Union[str, os.PathLike]] = None,
        shapes: Optional[Mapping[str, Range]] = None,
        flavour: Optional[str] = None,
        device: int = 0,
        cuda_graphs: bool = True,
    ) -> None:
        def build(graph):
            built = cached_engine(graph, open_gpu(device), engine_cache, shapes, flavour)
            return self._open(built, flavour, device)

        path = Path(path)
        if path.suffix == '.onnx':
            path, trt, plan = build(path)
        else:
            try:
                path, trt, plan = self._open(path, flavour, device)
            except ValueError as error:
                if onnx is None:
                    raise
                LOGGER.warning('%s', error)
                check_graph(path, onnx)
                path, trt, plan = build(onnx)
        self.metadata = self.info.metadata
        self.name = trt.name
        self.trt = trt
        self.cuda_graphs = cuda_graphs
        if self.metadata.batch_size is None:
            smallest, _, largest = self.info.shapes['images']
            self.smallest_batch, self.largest_batch = smallest[0], largest[0]
        # TensorRT-RTX's, compiled for this GPU
        kernels = f'{path.stem}_{self.info.graph[:16]}_{slug(self.gpu.name)}.kernels'
        self._kernels = Path(engine_cache or default_cache(), kernels)
        self._logger = trt.new_logger()
        self._runtime = trt.module.Runtime(self._logger)
        self.engine = self._deserialize(path, plan)
        self.types = self._types()
        self.inputs, self.outputs = (self._names(mode) for mode in ('INPUT', 'OUTPUT'))
        self.stream = Stream()
        self._executions = OrderedDict()
        self._lock = threading.Lock()

    def run(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
        """Run the engine once.

        Raises:
            GpuError: The GPU fails.
            TypeError: An input of another type.
            ValueError: An input that is missing, or of a shape that the engine was not built for.
        """
        with self._lock:
            execution = self._execution(feeds)
            for name in self.inputs:
                np.copyto(execution.buffers[name].host, feeds[name])
                execution.buffers[name].upload(self.stream)
            execution.launch()
            for name in self.outputs:
                execution.buffers[name].download(self.stream)
            self.stream.wait()
            return [execution.buffers[name].host.copy() for name in self.outputs]

    def gpu_times(self, feeds: Dict[str, np.ndarray], count: int) -> List[float]:
        """Milliseconds that each of some runs takes on the GPU, without copies to and from it."""
        self.run(feeds)
        with self._lock:
            return self.stream.times(self._execution(feeds).launch, count)

    # ---- opening ----

    def _open(
        self, path: Path, flavour: Optional[str], device: int
    ) -> Tuple[Path, TensorRT, bytes]:
        self.info, plan = read_engine(path)
        try:
            trt = choose(self.info, flavour)
            self.gpu = open_gpu(device)
        except (ImportError, ValueError) as error:
            gpus = ' or '.join(self.info.compute_capabilities)
            raise type(error)(
                f'{path} runs on GPUs of compute capability {gpus}: {error}. Without such a GPU, '
                'open the .onnx file of the same detector (tools/export.py --backend onnxruntime)'
            ) from None
        check_library(self.info, path, trt)
        check_gpu(self.info, path, self.gpu)
        return path, trt, plan

    def _deserialize(self, path: Path, plan: bytes):
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = self.trt.explain_invalid(self._runtime, plan)
            reasons = [*([reason] if reason else []), *self._logger.errors]
            raise ValueError(
                f'{self.name} cannot run {path} on {self.gpu}: {"; ".join(reasons)}. Build it again'
            )
        return engine

    def _types(self) -> Dict[str, np.dtype]:
        """Types of all inputs and outputs."""
        engine, nptype = self.engine, self.trt.module.nptype
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return {name: np.dtype(nptype(engine.get_tensor_dtype(name))) for name in names}

    def _names(self, mode: str) -> List[str]:
        """Inputs, or outputs in the graph's order."""
        mode = getattr(self.trt.module.TensorIOMode, mode)
        return [name for name in self.types if self.engine.get_tensor_mode(name) == mode]

    # ---- one combination of shapes ----

    def _execution(self, feeds: Dict[str, np.ndarray]) -> 'Execution':
        use(self.gpu.index)  # of this thread
        key = tuple(feeds[name].shape if name in feeds else None for name in self.inputs)
        self._check(feeds)
        if key not in self._executions:
            while len(self._executions) >= MAX_SHAPES:
                self._executions.popitem(last=False)
            self._executions[key] = self._prepare(dict(zip(self.inputs, key)))
        self._executions.move_to_end(key)
        return self._executions[key]

    def _check(self, feeds: Dict[str, np.ndarray]) -> None:
        for name in self.inputs:
            if name not in feeds:
                raise ValueError(f'input {name} is missing, got {", ".join(feeds) or "none"}')
            if feeds[name].dtype != self.types[name]:
                raise TypeError(f'{name} must be {self.types[name]}, got {feeds[name].dtype}')
            smallest, _, largest = self.info.shapes[name]
            shape = feeds[name].shape
            if len(shape) != len(smallest) or not all(
                low <= side <= high for low, side, high in zip(smallest, shape, largest)
            ):
                size = f'from {smallest} to {largest}' if smallest != largest else f'{largest}'
                raise ValueError(
                    f'the engine was built for {name} of shape {size}, got {shape}: build it with '
                    'other shapes'
                )

    def _prepare(self, shapes: Dict[str, Tuple[int, ...]]) -> 'Execution':
        kernels = self._kernels.read_bytes() if self._kernels.is_file() else None
        context, cache = self.trt.create_context(self.engine, kernels, self.cuda_graphs)
        if context is None:
            self._fail('there is no room for another shape')
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                self._fail(f'{name} cannot be of shape {shape}')
        buffers = {}
        for name, dtype in self.types.items():
            buffers[name] = Buffer(tuple(context.get_tensor_shape(name)), dtype)
            if not context.set_tensor_address(name, buffers[name].device):
                self._fail(f'{name} cannot be at its address')
        execution = Execution(context, buffers, self.stream, self._logger)
        # memory and kernels are settled in the first run, which cannot be captured
        execution.launch()
        self.stream.wait()
        if self.cuda_graphs and not self.trt.is_rtx:
            execution.capture()
        if cache is not None:
            self._keep(cache)
        return execution

    def _fail(self, what: str) -> None:
        raise GpuError(f'{self.name}: {what}. {"; ".join(self._logger.errors)}'.strip())

    def _keep(self, cache) -> None:
        """Compiled kernels for the next start; that they cannot be kept is no failure."""
        try:
            with new_output(self._kernels, overwrite=True) as new:
                new.write_bytes(cache.serialize())
        except OSError as error:
            LOGGER.info('compiled kernels are not kept: %s', error)


class Execution:
    """An engine ready to run with inputs of certain shapes.

    Args:
        context (IExecutionContext): It knows the shapes and addresses.
        buffers (dict[str, Buffer]): All inputs and outputs.
        stream (Stream): Where it runs.
        logger: It knows why something failed.
    """

    def __init__(self, context, buffers: Dict[str, Buffer], stream: Stream, logger) -> None:
        self.context = context
        self.buffers = buffers
        self.stream = stream
        self.logger = logger
        self.graph = None

    def launch(self) -> None:
        """Add a run to the stream."""
        if self.graph is not None:
            self.graph.launch()
        else:
            self._enqueue()

    def capture(self) -> None:
        """Launch all kernels at once from now on."""
        try:
            self.graph = self.stream.capture(self._enqueue)
        except GpuError as error:  # slower, and right
            LOGGER.warning('this engine cannot become a CUDA graph: %s', error)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(int(self.stream.handle)):
            raise GpuError(f'TensorRT: {"; ".join(self.logger.errors) or "the run failed"}')


def choose(info: EngineInfo, flavour: Optional[str]) -> TensorRT:
    """The library for an engine; if it is missing, another: :func:`check_library` says both."""
    try:
        return tensorrt_api.load(flavour or info.flavour)
    except ImportError:
        there = tensorrt_api.installed()
        if flavour is not None or not there:
            raise
        return there[0]
