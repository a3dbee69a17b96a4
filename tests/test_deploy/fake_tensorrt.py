# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A GPU, CUDA and TensorRT of memory of the host, as far as deim_mmdet speaks to them.

Work on the GPU waits until the stream is waited for, as it may on a real one. An engine of this
TensorRT is its ONNX file, which ONNX Runtime runs.
"""

import ctypes
import enum
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime


class FakeCuda:
    """``cuda.bindings.runtime``; every call returns (error, results...)."""

    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice='up', cudaMemcpyDeviceToHost='down')
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal='thread')

    class cudaError_t(enum.Enum):
        cudaSuccess = 0
        cudaErrorMemoryAllocation = 2
        cudaErrorNoDevice = 100
        cudaErrorStreamCaptureInvalidated = 901

    def __init__(self, name='Tesla T4', capability='7.5', count=1):
        self.name, self.capability, self.count = name, capability, count
        self.memory, self.calls, self.work, self.captured = {}, [], [], None
        self.can_capture, self.room, self.driver = True, None, 12040

    def result(self, *values):
        return (self.cudaError_t.cudaSuccess, *values)

    def enqueue(self, function):
        (self.work if self.captured is None else self.captured).append(function)

    # ---- devices ----

    def cudaGetDeviceCount(self):
        if not self.count:
            return self.cudaError_t.cudaErrorNoDevice, None
        return self.result(self.count)

    def cudaSetDevice(self, index):
        assert index < self.count
        return self.result()

    def cudaGetDeviceProperties(self, index):
        major, minor = map(int, self.capability.split('.'))
        name = self.name.encode() + b'\0\0'
        return self.result(SimpleNamespace(name=name, major=major, minor=minor))

    def cudaRuntimeGetVersion(self):
        return self.result(12090)

    def cudaDriverGetVersion(self):
        return self.result(self.driver)

    def cudaGetErrorName(self, error):
        return self.result(error.name.encode())

    def cudaGetErrorString(self, error):
        return self.result(b'in words')

    # ---- memory ----

    def cudaMalloc(self, size):
        if self.room is not None and size > self.room:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        # nobody has written there yet
        memory = (ctypes.c_byte * size).from_buffer(bytearray(b'\xff' * size))
        address = ctypes.addressof(memory)
        self.memory[address] = memory
        return self.result(address)

    def cudaHostAlloc(self, size, flags):
        return self.cudaMalloc(size)

    def cudaFree(self, address):
        del self.memory[address]
        return self.result()

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        assert len(self.memory[to]) >= size <= len(self.memory[source])
        self.calls.append(kind)
        self.enqueue(lambda: ctypes.memmove(to, source, size))
        return self.result()

    # ---- streams and graphs ----

    def cudaStreamCreateWithFlags(self, flags):
        return self.result(7)

    def cudaStreamDestroy(self, stream):
        return self.result()

    def cudaStreamSynchronize(self, stream):
        assert stream == 7 and self.captured is None
        work, self.work = self.work, []
        for function in work:
            function()
        return self.result()

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return self.result()

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        if not self.can_capture:
            return self.cudaError_t.cudaErrorStreamCaptureInvalidated, None
        self.calls.append('capture')
        return self.result(graph)

    def cudaGraphInstantiate(self, graph, flags):
        return self.result(list(graph))

    def cudaGraphDestroy(self, graph):
        return self.result()

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, executable, stream):
        self.calls.append('launch')
        for function in executable:
            self.enqueue(function)
        return self.result()

    def cudaEventCreate(self):
        return self.result('event')

    def cudaEventRecord(self, event, stream):
        return self.result()

    def cudaEventSynchronize(self, event):
        return self.cudaStreamSynchronize(7)

    def cudaEventElapsedTime(self, first, last):
        return self.result(2.5)

    def cudaEventDestroy(self, event):
        return self.result()


class FakeTensorRT(ModuleType):
    """``tensorrt``, or ``tensorrt_rtx``; ``calls`` holds what it was told."""

    def __init__(self, name, version, cuda):
        super().__init__(name)
        self.__version__, self.cuda, self.calls = version, cuda, []
        self.builds, self.timing_fits = 0, True
        self.refused = set()  # of what a context is told
        self.NetworkDefinitionCreationFlag = enum.IntEnum('Flag', {'STRONGLY_TYPED': 1})
        self.BuilderFlag = enum.Enum('BuilderFlag', 'FP16 TF32')
        self.TensorIOMode = enum.Enum('TensorIOMode', 'INPUT OUTPUT')
        self.ProfilingVerbosity = enum.Enum('ProfilingVerbosity', 'DETAILED')
        self.Builder, self.OnnxParser, self.Runtime = (
            lambda logger: Builder(self, logger),
            lambda network, logger: Parser(self, network),
            lambda logger: Runtime(self, logger),
        )
        self.ILogger = Logger
        if name == 'tensorrt_rtx':
            self.ComputeCapability = enum.Enum('ComputeCapability', 'CURRENT SM75 SM86 SM120')
            self.CudaGraphStrategy = enum.Enum('CudaGraphStrategy', 'WHOLE_GRAPH_CAPTURE')
            self.DynamicShapesKernelSpecializationStrategy = enum.Enum('Strategy', 'EAGER')
            self.EngineValidity = enum.Enum('EngineValidity', 'VALID INVALID')
            self.EngineInvalidityDiagnostics = enum.IntEnum(
                'EngineInvalidityDiagnostics', {'VERSION_MISMATCH': 1, 'UNSUPPORTED_CC': 2}
            )

    @staticmethod
    def nptype(dtype):
        return np.dtype(dtype).type


class Logger:
    """The base class of loggers."""

    ERROR, WARNING = SimpleNamespace(name='ERROR'), SimpleNamespace(name='WARNING')


class Recorded:
    """Writes down what is set and called that nobody has to answer."""

    def __init__(self, trt):
        vars(self).update(trt=trt)

    def __setattr__(self, name, value):
        self.trt.calls.append((name, value))

    def __getattr__(self, name):
        def call(*args):
            self.trt.calls.append((name, *args))
            return True

        return call


class Builder:
    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger

    def create_network(self, flags):
        self.trt.calls.append(('create_network', flags))
        return SimpleNamespace()

    def create_builder_config(self):
        return Config(self.trt)

    def create_optimization_profile(self):
        return Recorded(self.trt)

    def build_serialized_network(self, network, config):
        self.trt.builds += 1
        if network.graph == b'impossible':
            self.logger.log(Logger.ERROR, 'no kernel for\nthis')
            return None
        self.logger.log(Logger.WARNING, 'labels are INT64')
        return json.dumps([self.trt.__name__]).encode() + b'\0' + network.graph


class Config(Recorded):
    def create_timing_cache(self, data):
        return SimpleNamespace(serialize=lambda: data + b'measured')

    def set_timing_cache(self, cache, ignore_mismatch):
        data = cache.serialize()
        self.trt.calls.append(('set_timing_cache', data))
        return self.trt.timing_fits or data == b'measured'


class Parser:
    def __init__(self, trt, network):
        self.network = network

    def parse(self, data):
        self.network.graph = data
        return True


class Runtime:
    engine_header_size = 4

    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, plan):
        head, _, graph = plan.partition(b'\0')
        if json.loads(head) != [self.trt.__name__]:
            self.logger.log(Logger.ERROR, 'magic tag does not match')
            return None
        return Engine(self.trt, graph)

    def get_engine_validity(self, head):
        assert len(head) == self.engine_header_size
        return self.trt.EngineValidity.INVALID, 1


class Engine:
    def __init__(self, trt, graph):
        self.trt = trt
        self.session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.tensors = {**self.inputs, **{v.name: v for v in self.session.get_outputs()}}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, i):
        return list(self.tensors)[i]

    def get_tensor_dtype(self, name):
        kind = self.tensors[name].type[len('tensor(') : -1]
        return {'float': np.float32}.get(kind, kind)

    def get_tensor_mode(self, name):
        mode = self.trt.TensorIOMode
        return mode.INPUT if name in self.inputs else mode.OUTPUT

    def create_runtime_config(self):
        return RuntimeConfig(self.trt)

    def create_execution_context(self, config=None):
        assert (config is not None) == (self.trt.__name__ == 'tensorrt_rtx')
        return Context(self)


class RuntimeConfig(Recorded):
    def create_runtime_cache(self):
        def deserialize(data):
            self.trt.calls.append(('kernels', data))
            return data == b'kernels'

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: b'kernels')


class Context:
    def __init__(self, engine):
        self.engine, self.cuda = engine, engine.trt.cuda
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return 'shape' not in self.engine.trt.refused

    def get_tensor_shape(self, name):
        feeds = {
            key: np.zeros(shape, np.dtype(self.engine.get_tensor_dtype(key)))
            for key, shape in self.shapes.items()
        }
        return self.shapes.get(name) or self.engine.session.run([name], feeds)[0].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return 'address' not in self.engine.trt.refused

    def execute_async_v3(self, stream):
        assert stream == 7 and len(self.addresses) == len(self.engine.tensors)
        self.cuda.calls.append('execute')
        if 'run' in self.engine.trt.refused:
            return False
        self.cuda.enqueue(self._execute)
        return True

    def _execute(self):
        feeds = {name: self._array(name, shape) for name, shape in self.shapes.items()}
        names = [name for name in self.engine.tensors if name not in feeds]
        for name, value in zip(names, self.engine.session.run(names, feeds)):
            self._array(name, value.shape)[...] = value

    def _array(self, name, shape):
        memory = self.cuda.memory[self.addresses[name]]
        dtype = np.dtype(self.engine.get_tensor_dtype(name))
        return np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)


def install(monkeypatch, cuda=None, **versions):
    """Let these be all there is: versions of ``tensorrt`` and ``tensorrt_rtx`` by name.

    Returns:
        tuple: The CUDA, and the modules by name.
    """
    cuda = cuda or FakeCuda()
    modules = {name: FakeTensorRT(name, version, cuda) for name, version in versions.items()}
    for name in ('tensorrt', 'tensorrt_bindings', 'tensorrt_rtx', 'tensorrt_rtx_bindings'):
        monkeypatch.setitem(sys.modules, name, modules.get(name))
    package, bindings = ModuleType('cuda'), ModuleType('cuda.bindings')
    package.bindings, bindings.runtime = bindings, cuda
    monkeypatch.setitem(sys.modules, 'cuda', package)
    monkeypatch.setitem(sys.modules, 'cuda.bindings', bindings)
    return cuda, modules
