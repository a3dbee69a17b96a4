# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Dict, List, Optional, Union

import numpy as np

from ..metadata import KEY, Metadata
from .runner import Runner, import_backend

# Where an .xml says which .bin it belongs to.
WEIGHTS_KEY = f'{KEY}_weights'
# One image after the other. By themselves some CPUs take bfloat16, too few bits for boxes.
SETTINGS = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}


class OpenVINORunner(Runner):
    """OpenVINO, one image after the other as fast as possible (its latency hint).

    Args:
        path (str | PathLike): OpenVINO's own format (.xml with the .bin beside it), or ONNX.
        threads (int, optional): Threads of the CPU; None lets OpenVINO choose.
        device (str): Device of OpenVINO. Defaults to 'CPU'.
        inference_precision (str): What devices compute floats in. Defaults to 'f32', since by
            themselves they take bfloat16 or float16 for all of the graph where that is faster, and
            box coordinates have not enough bits in that.

    Raises:
        ImportError: OpenVINO is missing.
        ValueError: No such file, or none that ``tools/export.py`` of this version wrote; a .bin
            that is damaged, or another's; a device that is not there; a graph in int8.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike],
        threads: Optional[int] = None,
        device: str = 'CPU',
        inference_precision: str = SETTINGS['INFERENCE_PRECISION_HINT'],
    ) -> None:
        openvino = import_backend('openvino')
        path = Path(path)
        core = shared_core()
        try:
            model = core.read_model(str(path))
        except Exception as error:  # RuntimeError, or another for each front end
            raise ValueError(
                f'{path} is no file that OpenVINO can read (an .xml needs the .bin of the same '
                f'name beside it): {_reason(error)}'
            ) from None
        self.metadata = Metadata.from_json(read_metadata(model), str(path))
        if self.metadata.precision == 'int8':
            raise ValueError(
                f'{path} is in int8, which OpenVINO computes otherwise than its quantisation '
                'means, and gets other boxes: run it with ONNX Runtime or TensorRT, or quantise '
                "the float file with OpenVINO's own NNCF"
            )
        if model.has_rt_info([WEIGHTS_KEY]):
            weights = path.with_suffix('.bin')
            if model.get_rt_info([WEIGHTS_KEY]).astype(str) != hash_of(weights):
                raise ValueError(
                    f'{weights} does not belong to {path}, or is damaged: take the two files that '
                    'were written together, or export the checkpoint again'
                )
        config = {**SETTINGS, 'INFERENCE_PRECISION_HINT': inference_precision}
        if threads is not None:
            config['INFERENCE_NUM_THREADS'] = threads
        try:
            compiled = core.compile_model(model, device, config)
        except RuntimeError as error:
            raise ValueError(
                f'OpenVINO cannot run {path} on {device} (it has '
                f'{", ".join(core.available_devices) or "no device"}): {_reason(error)}'
            ) from None
        self.request = compiled.create_infer_request()
        self.name = f'OpenVINO {openvino.__version__.split("-")[0]}'

    def run(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
        # inputs are read where they lie; results are copies
        return list(self.request.infer(feeds, share_inputs=True).to_tuple())


@cache
def shared_core():
    """OpenVINO's Core, one for the whole process.

    Each Core that has compiled for a CPU gives the thread a stack for signal handlers and puts the
    one before back when it goes. Where two of them go in the order they came (OpenVINO 2026.4), the
    thread keeps a stack that is freed, and the next signal, Ctrl-C too, ends the process.

    Raises:
        ImportError: OpenVINO is missing.
    """
    return import_backend('openvino').Core()


def read_metadata(model) -> Optional[str]:
    """What ``tools/export.py`` left in a model, which OpenVINO keeps elsewhere if it was ONNX."""
    for keys in ([KEY], ['framework', KEY]):
        if model.has_rt_info(keys):
            return model.get_rt_info(keys).astype(str)
    return None


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: Exception) -> str:
    """What went wrong; the lines before say where, in OpenVINO's source."""
    return str(error).strip().splitlines()[-1]
