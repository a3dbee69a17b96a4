# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Backends whose programming interface has changed since mmdeploy 1.3.1."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
import torch
from mmdeploy.apis.core import PIPELINE_MANAGER
from mmdeploy.apis.utils import to_backend
from mmdeploy.backend.base import BACKEND_MANAGERS, BaseWrapper
from mmdeploy.backend.onnxruntime.backend_manager import ONNXRuntimeManager
from mmdeploy.backend.openvino.backend_manager import OpenVINOManager
from mmdeploy.backend.tensorrt.backend_manager import TensorRTManager
from mmdeploy.utils import get_common_config, get_ir_config, get_model_inputs
from mmdeploy.utils.timer import TimeCounter
from torch import Tensor

from deim_mmdet.deploy import tensorrt_api
from deim_mmdet.deploy.cuda import Gpu
from deim_mmdet.deploy.runners.openvino_runner import SETTINGS, shared_core
from deim_mmdet.deploy.runners.runner import import_backend
from deim_mmdet.deploy.tensorrt_build import OnnxFile, build_plan, choose_target
from deim_mmdet.deploy.tensorrt_file import check_gpu, check_library, description_of
from deim_mmdet.new_output import new_outputs

from .export import PRODUCER

# What a deploy config calls the shapes of an engine.
RANGE = ('min', 'opt', 'max')


@BACKEND_MANAGERS.register('onnxruntime')
class StandardOnnxRuntime(ONNXRuntimeManager):
    """ONNX Runtime, whose graphs are typed in float16 when they are made."""

    @classmethod
    def to_backend(cls, ir_files: Sequence[str], *args, **kwargs) -> Sequence[str]:
        """NOTE mmdeploy types graphs here, everything in float16, positions and boxes as well. It
        still does those of detectors that it traces itself.
        """
        if all(onnx.load(path).producer_name == PRODUCER for path in ir_files):
            return ir_files
        return super().to_backend(ir_files, *args, **kwargs)


@BACKEND_MANAGERS.register('openvino')
class CurrentOpenVINO(OpenVINOManager):
    """OpenVINO from 2023.1 on, which has neither Model Optimizer nor Inference Engine."""

    @classmethod
    def to_backend(
        cls,
        ir_files: Sequence[str],
        work_dir: str,
        deploy_cfg: Any,
        log_level: int = logging.INFO,
        device: str = 'cpu',
        **kwargs,
    ) -> List[str]:
        """Write an .xml and a .bin for each ONNX file; returns the former."""
        openvino = import_backend('openvino')
        written = []
        for path in ir_files:
            target = Path(work_dir, Path(path).name).with_suffix('.xml')
            with new_outputs([target, target.with_suffix('.bin')], overwrite=True) as new:
                # weights in float16 are another choice than that of the deploy config
                openvino.save_model(
                    shared_core().read_model(str(path)), str(new[0]), compress_to_fp16=False
                )
            written.append(str(target))
        return written

    @classmethod
    def build_wrapper(
        cls,
        backend_files: Sequence[str],
        device: str = 'cpu',
        input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None,
        deploy_cfg: Optional[Any] = None,
        **kwargs,
    ) -> 'CurrentOpenVINOWrapper':
        return CurrentOpenVINOWrapper(backend_files[0], output_names)


class CurrentOpenVINOWrapper(BaseWrapper):
    """Runs a graph of OpenVINO on the CPU, in float32.

    Args:
        path (str): The .xml, with its .bin beside it.
        output_names (Sequence[str], optional): Names of the outputs, in the order they are wanted
            in; None: those of the graph.
    """

    def __init__(self, path: str, output_names: Optional[Sequence[str]] = None) -> None:
        compiled = shared_core().compile_model(path, 'CPU', SETTINGS)
        self.request = compiled.create_infer_request()
        super().__init__(output_names or [output.any_name for output in compiled.outputs])

    def forward(self, inputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Outputs by name, of inputs by name."""
        found = self._run({name: value.cpu().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(found[name].copy()) for name in self._output_names}

    @TimeCounter.count_time('OpenVINO')
    def _run(self, inputs: Dict[str, Any]):
        return self.request.infer(inputs)


@BACKEND_MANAGERS.register('tensorrt')
class CurrentTensorRT(TensorRTManager):
    """TensorRT from 10 on, and TensorRT-RTX; older ones are left to mmdeploy.

    Engines are strongly typed: what is float16 says the graph, not a flag of the builder.
    """

    @classmethod
    def is_available(cls, with_custom_ops: bool = False) -> bool:
        return bool(tensorrt_api.installed())

    @classmethod
    def to_backend(
        cls,
        ir_files: Sequence[str],
        work_dir: str,
        deploy_cfg: Any,
        log_level: int = logging.INFO,
        device: str = 'cuda:0',
        **kwargs,
    ) -> List[str]:
        """Write an .engine for each ONNX file, with an .engine.json that says where it runs.

        Raises:
            ImportError: TensorRT is missing.
            ValueError: A graph or shapes for which there can be no engine.
        """
        if is_older():
            return super().to_backend(ir_files, work_dir, deploy_cfg, log_level, device, **kwargs)
        common = get_common_config(deploy_cfg)
        # GPUs that are elsewhere, as ['7.5']; None: the one at hand
        capabilities = common.get('compute_capabilities')
        trt, gpu, fitting = choose_target(None, capabilities, torch.device(device).index or 0)
        target = EngineTarget(
            trt.flavour, trt.version, fitting, gpu.name if gpu and not trt.is_rtx else None
        )
        names = get_ir_config(deploy_cfg)['input_names']
        written = []
        for path, settings in zip(ir_files, get_model_inputs(deploy_cfg)):
            shapes = settings['input_shapes']
            ranges = {
                name: tuple(tuple(shapes[name][f'{which}_shape']) for which in RANGE)
                for name in names
            }
            graph = OnnxFile(Path(path), Path(path).read_bytes(), None, {}, [])
            plan = build_plan(trt, graph, ranges, capabilities)
            out = Path(work_dir, settings.get('save_file', Path(path).stem + '.engine'))
            with new_outputs([out, description_of(out)], overwrite=True) as new:
                new[0].write_bytes(plan)
                new[1].write_text(target.to_json())
            written.append(str(out))
        return written

    @classmethod
    def build_wrapper(
        cls,
        backend_files: Sequence[str],
        device: str = 'cuda:0',
        input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None,
        deploy_cfg: Optional[Any] = None,
        **kwargs,
    ) -> BaseWrapper:
        if is_older():
            return super().build_wrapper(backend_files, device, input_names, output_names)
        return CurrentTensorRTWrapper(backend_files[0], output_names, device)


@dataclass(frozen=True)
class EngineTarget:
    """What runs an engine: the part of :class:`~deim_mmdet.deploy.tensorrt_file.EngineInfo` that
    is true without our metadata, which mmdeploy's inputs and outputs do not go with.
    """

    flavour: str
    version: str
    compute_capabilities: Tuple[str, ...]
    gpu: Optional[str]

    @property
    def built_by(self) -> str:
        return f'{tensorrt_api.FLAVOURS[self.flavour][1]} {self.version}'

    def to_json(self) -> str:
        return json.dumps(dict(mmdeploy=True, **asdict(self))) + '\n'

    @classmethod
    def read(cls, engine: Path) -> 'EngineTarget':
        """That of an engine.

        Raises:
            ValueError: The file beside it is missing or is of something else.
        """
        description = description_of(engine)
        try:
            values = json.loads(description.read_text())
            values.pop('mmdeploy')
            values['compute_capabilities'] = tuple(values['compute_capabilities'])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f'{description}, which says where {Path(engine).name} runs, is missing or was not '
                'written by mmdeploy with deim_mmdet: copy both files, or convert again'
            ) from None


def library_for(engine: Path, gpu: Gpu) -> tensorrt_api.TensorRT:
    """The library that runs an engine.

    Raises:
        ImportError: It is missing.
        ValueError: The engine is of another library, version or GPU; the message names both.
    """
    target = EngineTarget.read(engine)
    trt = tensorrt_api.load(target.flavour)
    try:
        check_library(target, engine, trt)
        check_gpu(target, engine, gpu)
    except ValueError as error:
        raise ValueError(f'{error}. For mmdeploy, convert again') from None
    return trt


class CurrentTensorRTWrapper(BaseWrapper):
    """Runs an engine on PyTorch's current stream.

    Args:
        path (str): The .engine, with its .engine.json beside it.
        output_names (Sequence[str]): Names of the outputs, in the order they are wanted in.
        device (str): The GPU.

    Raises:
        ImportError: TensorRT is missing.
        ValueError: An engine without its description, or of another GPU, library or version.
    """

    def __init__(self, path: str, output_names: Sequence[str], device: str = 'cuda:0') -> None:
        super().__init__(output_names)
        self.device = torch.device(device)
        with torch.cuda.device(self.device):
            capability = '.'.join(map(str, torch.cuda.get_device_capability()))
            gpu = Gpu(torch.cuda.current_device(), torch.cuda.get_device_name(), capability)
            self.trt = library_for(path, gpu)
            self.logger = self.trt.new_logger()
            self.runtime = self.trt.module.Runtime(self.logger)
            self.engine = self.runtime.deserialize_cuda_engine(Path(path).read_bytes())
            if self.engine is None:
                raise ValueError(
                    f'{self.trt.name} cannot run {path} on {gpu}: '
                    f'{"; ".join(self.logger.errors)}. Convert again on this machine'
                )
            # PyTorch's allocator may move between runs, so no CUDA graphs
            self.context, _ = self.trt.create_context(self.engine, cuda_graphs=False)

    def forward(self, inputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Outputs by name, of inputs by name."""
        with torch.cuda.device(self.device):
            return self._forward(inputs)

    def _forward(self, inputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        inputs = {name: value.to(self.device).contiguous() for name, value in inputs.items()}
        for name, value in inputs.items():
            if not self.context.set_input_shape(name, tuple(value.shape)):
                raise ValueError(
                    f'{tuple(value.shape)} is no shape that the engine was built for: see '
                    'input_shapes of the deploy config'
                )
        outputs = {}
        for name in self._output_names:
            dtype = self.trt.module.nptype(self.engine.get_tensor_dtype(name))
            dtype = torch.from_numpy(np.empty(0, dtype)).dtype
            shape = tuple(self.context.get_tensor_shape(name))
            outputs[name] = torch.empty(shape, dtype=dtype, device=self.device)
        for name, value in (*inputs.items(), *outputs.items()):
            if not self.context.set_tensor_address(name, value.data_ptr()):
                raise ValueError(f'{name} is no tensor of the engine: see onnx_config')
        self._run()
        return outputs

    @TimeCounter.count_time('TensorRT')
    def _run(self) -> None:
        stream = torch.cuda.current_stream(self.device)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f'{self.trt.name}: {"; ".join(self.logger.errors)}')


def fixed_batch(path: str) -> Optional[int]:
    """Images per run of a graph of static batch; None: any number, or the file does not say."""
    if path.endswith('.onnx'):
        graph = onnx.load(path, load_external_data=False).graph
        return graph.input[0].type.tensor_type.shape.dim[0].dim_value or None
    if path.endswith('.xml'):
        batch = shared_core().read_model(path).input(0).partial_shape[0]
        return batch.get_length() if batch.is_static else None
    return None


def is_older() -> bool:
    """Whether the TensorRT that is there is one that mmdeploy was written for."""
    found = [trt for trt in tensorrt_api.installed() if not trt.is_rtx]
    return bool(found) and int(found[0].version.split('.')[0]) < tensorrt_api.OLDEST


def bring_along(*args, **kwargs):
    """Hook before mmdeploy's ``to_backend``. It changes nothing; a process that mmdeploy starts for
    TensorRT looks for it here, and so has what this module registers.
    """
    return args, kwargs


PIPELINE_MANAGER.get_input_hooks(to_backend).append(bring_along)
