# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
from typing import Dict, List, Optional, Sequence, Union

import numpy as np

from ..metadata import KEY, Metadata
from .runner import Runner, import_backend

GPU_PROVIDERS = ('CUDAExecutionProvider', 'TensorrtExecutionProvider')


class OnnxRuntimeRunner(Runner):
    """ONNX Runtime.

    Args:
        path (str | PathLike): The ONNX file.
        threads (int, optional): Threads; None lets ONNX Runtime choose.
        providers (Sequence[str]): Execution providers, of which the first that can be started runs
            the graph. Defaults to the CPU.

    Raises:
        ImportError: ONNX Runtime is missing.
        ValueError: No ONNX file, or none that ``tools/export.py`` of this version wrote; a provider
            that this build of ONNX Runtime has not.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike],
        threads: Optional[int] = None,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> None:
        onnxruntime = import_backend('onnxruntime')
        available = onnxruntime.get_available_providers()
        missing = [name for name in providers if name not in available]
        if missing:
            raise ValueError(
                f'this build of ONNX Runtime has no {", ".join(missing)}, but '
                f'{", ".join(available)}'
            )
        try:
            self.session = open_session(path, threads, providers)
        except Exception as error:  # ONNX Runtime has a class of its own for each kind of failure
            raise ValueError(f'{path} is no ONNX file that ONNX Runtime can run: {error}') from None
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.metadata = Metadata.from_json(text, str(path))
        self.name = f'ONNX Runtime {onnxruntime.__version__}'
        # not the one that was asked for: without its libraries ONNX Runtime goes on with the CPU
        self.device = 'cuda' if self.session.get_providers()[0] in GPU_PROVIDERS else 'cpu'

    def run(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
        return self.session.run(None, feeds)


def open_session(
    model: Union[bytes, str, os.PathLike],
    threads: Optional[int] = None,
    providers: Sequence[str] = ('CPUExecutionProvider',),
    optimized: bool = True,
):
    """A session of ONNX Runtime, whose warnings nobody can act on: only errors are printed.

    Args:
        model (bytes | str | PathLike): The graph, or its file.
        threads, providers: As for :class:`OnnxRuntimeRunner`.
        optimized (bool): Whether the graph is rewritten before it runs. Defaults to True.

    Returns:
        InferenceSession: The session.

    Raises:
        ImportError: ONNX Runtime is missing.
    """
    onnxruntime = import_backend('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(model, options, providers=list(providers))
