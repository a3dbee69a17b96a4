# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What running an engine needs of CUDA: memory, a stream, graphs and clocks.

Through NVIDIA's `cuda-bindings` and not through PyTorch, which a machine that only runs engines
need not have (8 MB instead of 2 GB); the wheel has the CUDA runtime inside.
"""

import ctypes
import weakref
from typing import Callable, List, NamedTuple, Optional, Tuple

import numpy as np

from .extras import how_to_install

WAY_OUT = 'nvidia-smi shows what the driver sees'


class GpuError(OSError):
    """A GPU, its driver or what runs on it failed, as where its memory is full."""


class Gpu(NamedTuple):
    """A GPU of this machine.

    Attributes:
        index (int): Number of the device.
        name (str): As 'Tesla T4'.
        capability (str): Compute capability, as '7.5'.
    """

    index: int
    name: str
    capability: str

    def __str__(self) -> str:
        return f'{self.name}, compute capability {self.capability}'


def open_gpu(index: int = 0) -> Gpu:
    """Let this thread work on a GPU.

    Raises:
        GpuError: It does not work.
        ImportError: cuda-bindings is missing.
        ValueError: There is no such GPU.
    """
    runtime = _runtime()
    error, count = runtime.cudaGetDeviceCount()
    if error != runtime.cudaError_t.cudaSuccess:
        raise ValueError(f'no NVIDIA GPU can be used here: {_why_none(runtime, error)}')
    if not 0 <= index < count:
        raise ValueError(f'there is no GPU {index}, but {count}, counted from 0; {WAY_OUT}')
    use(index)
    properties = _check(runtime.cudaGetDeviceProperties(index))
    name = properties.name.decode().split('\0')[0]
    return Gpu(index, name, f'{properties.major}.{properties.minor}')


def use(index: int) -> None:
    """Let what this thread does next go to a GPU."""
    _check(_runtime().cudaSetDevice(index))


class Stream:
    """Work that is done in order, beside that of other streams."""

    def __init__(self) -> None:
        runtime = _runtime()
        self.handle = _check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        weakref.finalize(self, runtime.cudaStreamDestroy, self.handle)

    def wait(self) -> None:
        _check(_runtime().cudaStreamSynchronize(self.handle))

    def capture(self, enqueue: Callable[[], None]) -> 'CudaGraph':
        """Record what a function would do, instead of doing it."""
        runtime = _runtime()
        # other threads may allocate meanwhile
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _check(runtime.cudaStreamBeginCapture(self.handle, mode))
        try:
            enqueue()
        finally:
            error, graph = runtime.cudaStreamEndCapture(self.handle)
        _check((error, None))
        try:
            return CudaGraph(self, _check(runtime.cudaGraphInstantiate(graph, 0)))
        finally:
            runtime.cudaGraphDestroy(graph)

    def times(self, enqueue: Callable[[], None], count: int) -> List[float]:
        """Milliseconds that each of some runs of a function takes on the GPU."""
        runtime = _runtime()
        first, last = (_check(runtime.cudaEventCreate()) for _ in range(2))
        try:
            found = []
            for _ in range(count):
                _check(runtime.cudaEventRecord(first, self.handle))
                enqueue()
                _check(runtime.cudaEventRecord(last, self.handle))
                _check(runtime.cudaEventSynchronize(last))
                found.append(_check(runtime.cudaEventElapsedTime(first, last)))
            return found
        finally:
            for event in (first, last):
                runtime.cudaEventDestroy(event)


class CudaGraph:
    """Recorded work, which is launched at once."""

    def __init__(self, stream: Stream, executable) -> None:
        self.stream = stream
        self.executable = executable
        weakref.finalize(self, _runtime().cudaGraphExecDestroy, executable)

    def launch(self) -> None:
        _check(_runtime().cudaGraphLaunch(self.executable, self.stream.handle))


class Buffer:
    """A tensor on the GPU and its twin in pinned memory of the host.

    Args:
        shape (tuple[int]): Its shape.
        dtype (np.dtype): Its type.

    Attributes:
        host (ndarray): The twin; not to be used when the buffer is gone.
        device (int): Address on the GPU.
    """

    def __init__(self, shape: Tuple[int, ...], dtype: np.dtype) -> None:
        runtime = _runtime()
        dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        size = max(self.nbytes, 1)
        self.device = int(_check(runtime.cudaMalloc(size)))
        weakref.finalize(self, runtime.cudaFree, self.device)
        self._pinned = int(_check(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)))
        weakref.finalize(self, runtime.cudaFreeHost, self._pinned)
        memory = (ctypes.c_byte * size).from_address(self._pinned)
        self.host = np.frombuffer(memory, np.uint8)[: self.nbytes].view(dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        self._copy(self.device, self._pinned, 'cudaMemcpyHostToDevice', stream)

    def download(self, stream: Stream) -> None:
        self._copy(self._pinned, self.device, 'cudaMemcpyDeviceToHost', stream)

    def _copy(self, to: int, source: int, kind: str, stream: Stream) -> None:
        runtime = _runtime()
        kind = getattr(runtime.cudaMemcpyKind, kind)
        _check(runtime.cudaMemcpyAsync(to, source, self.nbytes, kind, stream.handle))


def _runtime():
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith('cuda'):
            raise ImportError(
                f'cuda-bindings is missing, which engines need to run: {how_to_install("tensorrt")}'
            ) from None
        raise
    return runtime


def _check(returned: tuple) -> Optional[object]:
    """What a call of CUDA gives beside its error.

    Raises:
        GpuError: It failed.
    """
    runtime = _runtime()
    error, *values = returned
    if error != runtime.cudaError_t.cudaSuccess:
        raise GpuError(f'CUDA: {_text(error)}')
    return values[0] if values else None


def _why_none(runtime, error) -> str:
    driver, wanted = (
        call()[1] // 1000 for call in (runtime.cudaDriverGetVersion, runtime.cudaRuntimeGetVersion)
    )
    if driver == 0:
        return 'its driver is not installed'
    if driver < wanted:
        return (
            f'the driver is of CUDA {driver}, cuda-bindings of CUDA {wanted}: '
            f"pip install 'cuda-bindings<{driver + 1}'"
        )
    return f'{_text(error)}; {WAY_OUT}'


def _text(error) -> str:
    runtime = _runtime()
    name, text = runtime.cudaGetErrorName(error)[1], runtime.cudaGetErrorString(error)[1]
    return f'{name.decode()}: {text.decode()}'
