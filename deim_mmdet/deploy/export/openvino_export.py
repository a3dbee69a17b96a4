# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Callable, List, Optional, Union

from deim_mmdet.new_output import new_outputs

from ..metadata import KEY, Metadata
from ..runners.openvino_runner import WEIGHTS_KEY, hash_of, read_metadata, shared_core
from ..runners.runner import import_backend
from .target import Check, Target


def export_openvino(
    onnx_path: Union[str, os.PathLike],
    path: Union[str, os.PathLike],
    half: bool = False,
    check: Optional[Callable[[Path], None]] = None,
    overwrite: bool = False,
) -> None:
    """Write an exported ONNX file in OpenVINO's own format: the graph and its weights beside it.

    Args:
        onnx_path (str | PathLike): What :func:`export_onnx` wrote.
        path (str | PathLike): The new .xml; the .bin gets the same name.
        half (bool): Keep weights in float16; what they are computed in is chosen when the model is
            loaded. Defaults to False.
        check (callable, optional): Gets the .xml under a temporary name; if it raises, neither file
            is left.
        overwrite (bool): Replace existing files. Defaults to False.

    Raises:
        FileExistsError: One of the two exists.
        ImportError: OpenVINO is missing.
        ValueError: ``path`` has another ending, or ``onnx_path`` was not written by this version.
    """
    openvino = import_backend('openvino')
    path = Path(path)
    if path.suffix != '.xml':
        raise ValueError(f'OpenVINO reads graphs from files *.xml, got {path}')
    model = shared_core().read_model(str(onnx_path))
    text = read_metadata(model)
    Metadata.from_json(text, str(onnx_path))
    model.set_rt_info(text, [KEY])
    with new_outputs([path, path.with_suffix('.bin')], overwrite) as new:
        for _ in range(2):  # the weights are the same in both; only then their hash is known
            openvino.save_model(model, str(new[0]), compress_to_fp16=half)
            model.set_rt_info(hash_of(new[1]), [WEIGHTS_KEY])
        if check is not None:
            check(new[0])


class OpenVINOTarget(Target):
    """OpenVINO's own format.

    Args:
        half (bool): Keep weights in float16. Defaults to False.

    Raises:
        ImportError: OpenVINO is missing.
    """

    half_in_graph = False

    def __init__(self, half: bool = False) -> None:
        import_backend('openvino')
        self.half = half

    def write(self, graph: Path, out: Path, check: Check, overwrite: bool = False) -> List[str]:
        export_openvino(graph, out, self.half, check, overwrite)
        return []
