# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Export of trained detectors, and what runs the result.

The only place that imports onnx, ONNX Runtime, OpenVINO and TensorRT. :class:`Detector` needs
neither PyTorch nor mmdet; the rest is imported when it is asked for.
"""

import sys

from .detector import Detections, Detector
from .extras import how_to_install
from .metadata import Metadata
from .runners import open_runner

# name -> module; these import PyTorch and onnx
_LAZY = {
    'Difference': 'parity',
    'EndToEnd': 'export.end_to_end',
    'ExportOptions': 'export.onnx_export',
    'InputFormat': 'export.end_to_end',
    'compare_with_pytorch': 'parity',
    'describe': 'export.description',
    'export_onnx': 'export.onnx_export',
    'export_openvino': 'export.openvino_export',
    'raw_predictions': 'export.end_to_end',
}

__all__ = ['Detections', 'Detector', 'Metadata', 'open_runner', *_LAZY]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    try:
        module = import_module(f'.{_LAZY[name]}', __name__)
    except ModuleNotFoundError as error:
        if error.name not in ('onnx', 'onnxruntime'):
            raise
        raise ImportError(
            f'{error.name} is missing, which export needs: {how_to_install()}'
        ) from None
    return getattr(module, name)


# mmdeploy imports this package where a deploy config names it. Whoever imported it before mmdeploy
# has to name mmdeploy_support itself: a second import of this package does nothing.
if 'mmdeploy' in sys.modules:
    from . import mmdeploy_support  # noqa: F401
