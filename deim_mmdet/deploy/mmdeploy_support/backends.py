# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Backends whose programming interface has changed since mmdeploy 1.3.1."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmdeploy.backend.base import BACKEND_MANAGERS, BaseWrapper
from mmdeploy.backend.onnxruntime.backend_manager import ONNXRuntimeManager
from mmdeploy.backend.openvino.backend_manager import OpenVINOManager
from mmdeploy.utils.timer import TimeCounter
from torch import Tensor

from deim_mmdet.convert import new_outputs
from deim_mmdet.deploy.runners.runner import import_backend


@BACKEND_MANAGERS.register('onnxruntime')
class StandardOnnxRuntime(ONNXRuntimeManager):
    """ONNX Runtime, whose graphs are typed in float16 when they are made."""

    @classmethod
    def to_backend(cls, ir_files: Sequence[str], *args, **kwargs) -> Sequence[str]:
        """NOTE mmdeploy types them here, everything in float16, positions and boxes as well."""
        return ir_files


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
                    openvino.Core().read_model(str(path)), str(new[0]), compress_to_fp16=False
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
        openvino = import_backend('openvino')
        # by themselves some CPUs take bfloat16, which has not enough bits for boxes
        config = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
        compiled = openvino.Core().compile_model(path, 'CPU', config)
        self.request = compiled.create_infer_request()
        super().__init__(output_names or [output.any_name for output in compiled.outputs])

    def forward(self, inputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Outputs by name, of inputs by name."""
        found = self._run({name: value.cpu().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(found[name].copy()) for name in self._output_names}

    @TimeCounter.count_time('OpenVINO')
    def _run(self, inputs: Dict[str, Any]):
        return self.request.infer(inputs)
