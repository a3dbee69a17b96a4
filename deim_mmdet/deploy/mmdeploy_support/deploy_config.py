# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What a deploy config may ask for."""

import numpy as np
import torch
from mmdeploy.utils import (
    get_backend,
    get_calib_filename,
    get_codebase_config,
    get_common_config,
    get_input_shape,
    get_ir_config,
    get_partition_config,
)
from mmdeploy.utils.config_utils import get_codebase_external_module
from mmengine.config import Config

from deim_mmdet.deploy.export.onnx_export import OPSETS
from deim_mmdet.deploy.metadata import DIVISOR

BACKENDS = ('onnxruntime', 'tensorrt', 'openvino')
# What a deploy config names in codebase_config.module, either of them. The first registers what is
# here if mmdeploy was imported before it, the second always.
MODULES = ('deim_mmdet.deploy', 'deim_mmdet.deploy.mmdeploy_support')


def is_ours(config: Config) -> bool:
    """Whether a deploy config names one of :data:`MODULES`."""
    named = 'codebase_config' in config and get_codebase_external_module(config)
    return bool(named) and not set(MODULES).isdisjoint(named)


def check(config: Config) -> None:
    """Refuse what cannot be made, before the work begins.

    Raises:
        ValueError: A setting that has no meaning here; the message names it and what does.
    """
    backend = get_backend(config).value
    codebase = get_codebase_config(config)
    if backend == 'sdk':  # runs what was made
        if int(np.__version__.split('.')[0]) > 1:
            raise ValueError(
                'the class labels that mmdeploy_runtime 1.3.1 returns are wrong with NumPy 2 or '
                f'newer, found {np.__version__}: run this where NumPy is older'
            )
        return
    if backend not in BACKENDS:
        raise ValueError(f'backend_config.type must be one of {", ".join(BACKENDS)}, got {backend}')
    model_type = codebase.get('model_type', 'end2end')
    if model_type != 'end2end':
        raise ValueError(f"codebase_config.model_type must be 'end2end', got {model_type!r}")
    if get_partition_config(config) is not None:
        raise ValueError(
            'partition_config cuts a detector where mmdeploy has put marks, and there are none in '
            'these: leave it out'
        )
    if get_calib_filename(config) is not None or get_common_config(config).get('int8_mode'):
        raise ValueError(
            'calib_config and int8_mode are not supported: tools/export.py --int8 quantises'
        )
    ir = get_ir_config(config)
    if ir.get('type', 'onnx') != 'onnx':
        raise ValueError(f"onnx_config.type must be 'onnx', got {ir['type']!r}")
    opset = ir.get('opset_version', 11)
    if opset not in OPSETS:
        raise ValueError(
            f'onnx_config.opset_version must be from {OPSETS[0]} to {OPSETS[-1]}, got {opset}'
        )
    if len(ir.get('input_names') or ()) != 1 or len(ir.get('output_names') or ()) != 2:
        raise ValueError(
            "onnx_config needs input_names=['input'] and output_names=['dets', 'labels'], got "
            f'{ir.get("input_names")} and {ir.get("output_names")}'
        )
    shape = get_input_shape(config)
    if shape is not None and any(side % DIVISOR for side in shape):
        nearest = [-(-side // DIVISOR) * DIVISOR for side in shape]
        raise ValueError(
            f'onnx_config.input_shape (width, height) must be multiples of {DIVISOR}, got '
            f'{list(shape)}: take {nearest}'
        )


def refuse_device(config: Config, device: str) -> None:
    """Refuse a device on which mmdeploy does nothing for the backend.

    Raises:
        ValueError: TensorRT without a GPU.
    """
    has_gpu = device.startswith('cuda') and torch.cuda.is_available()
    if get_backend(config).value == 'tensorrt' and not has_gpu:
        found = f'got --device {device}' if torch.cuda.is_available() else 'PyTorch sees none here'
        raise ValueError(
            f'TensorRT in mmdeploy needs a GPU (--device cuda:0), {found}. tools/export.py '
            '--backend tensorrt --compute-capability X.Y builds engines without one'
        )


def wants_half(config: Config) -> bool:
    """Whether the graph is to be typed in float16, see :mod:`deim_mmdet.deploy.export.half`."""
    backend = config.get('backend_config', {})
    return backend.get('precision') == 'fp16' or backend.get('common_config', {}).get(
        'fp16_mode', False
    )
