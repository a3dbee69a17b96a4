# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What :mod:`.latency` times of a config: PyTorch, and each backend with the graph of it."""

import argparse
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

from deim_mmdet.deploy.export.description import describe
from deim_mmdet.deploy.export.onnx_export import ExportOptions, export_onnx
from deim_mmdet.deploy.metadata import Metadata
from deim_mmdet.deploy.runners.torch_runner import TorchRunner

from .from_config import build_detector
from .latency import Candidate
from .latency_candidates import (
    TITLES,
    Request,
    candidate,
    exported_candidate,
    onnxruntime_has_cuda,
)
from .transformers_peer import transformers_model
from .transformers_runner import TransformersRunner


class ConfigSource:
    """A detector and its graphs, which are made when they are asked for.

    Args:
        config (str | PathLike): The config.
        checkpoint (str | PathLike, optional): None: random weights, which take as long.
        changes (Sequence[str]): To the config, as 'key=value'.
        request (Request): What is wanted.
        folder (Path): Where graphs may be written.

    Raises:
        ValueError: There is no GPU, and one is asked for.
    """

    def __init__(
        self,
        config: Path,
        checkpoint: Optional[Path],
        changes: Sequence[str],
        request: Request,
        folder: Path,
    ) -> None:
        has_gpu = torch.cuda.is_available()
        self.device = request.device or ('cuda' if has_gpu else 'cpu')
        if self.device == 'cuda' and not has_gpu:
            raise ValueError('--device cuda: PyTorch sees no GPU; leave it out for the CPU')
        self.request = request
        self.folder = folder
        self.config = Config.fromfile(config)
        self.config.merge_from_dict(parse_changes(changes))
        self.detector = load_detector(self.config, checkpoint)

    def is_half(self, on_gpu: bool) -> bool:
        """Whether it is float16 that is timed there."""
        wanted = self.request.precision
        return on_gpu if wanted is None else wanted == 'fp16'

    def metadata(self, half: bool) -> Metadata:
        return describe(self.detector, self.config, self._options(half))

    def graph(self, half: bool) -> Path:
        """The ONNX file."""
        path = self.folder / f'{"half" if half else "single"}.onnx'
        if not path.is_file():
            export_onnx(self.detector, path, self._options(half), self.metadata(half))
        return path

    def _options(self, half: bool) -> ExportOptions:
        protocol = self.request.protocol
        return ExportOptions(protocol.hw, batch_size=protocol.batch_size, half=half)


def parse_changes(changes: Sequence[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('changes', nargs='*', action=DictAction)
    return parser.parse_args(changes).changes or {}


def load_detector(config: Config, checkpoint: Optional[Path]) -> nn.Module:
    """With the weights of the checkpoint, or random ones."""
    MMLogger.get_instance('mmengine', log_level='WARNING')
    if checkpoint:
        from mmdet.apis import init_detector

        return init_detector(config, str(checkpoint), device='cpu')
    torch.manual_seed(0)
    return build_detector(config).eval()


def pytorch_candidate(source: ConfigSource, name: str, compiled: bool = False) -> Candidate:
    half = source.is_half(source.device != 'cpu')
    settings = (source.detector, source.metadata(half), source.device, half, compiled)
    whole, network = (TorchRunner(*settings, postprocess=value) for value in (True, False))
    return candidate(name, whole, network, source.request.protocol)


def transformers_candidate(source: ConfigSource, name: str, compiled: bool = False) -> Candidate:
    """With the same weights in Hugging Face transformers."""
    half = source.is_half(source.device != 'cpu')
    settings = (source.metadata(half), source.device, half, compiled)
    whole, network = (
        TransformersRunner(
            *transformers_model(source.config, source.detector), *settings, postprocess=value
        )
        for value in (True, False)
    )
    return candidate(name, whole, network, source.request.protocol)


def graph_candidate(source: ConfigSource, name: str, backend: str) -> Candidate:
    on_gpu = backend == 'tensorrt' or (
        backend == 'onnxruntime' and source.device != 'cpu' and onnxruntime_has_cuda()
    )
    graph = source.graph(source.is_half(on_gpu))
    return exported_candidate(name, graph, backend, source.request.protocol, source.device)


# name on the command line -> what it is called in tables, what makes it. To time something else,
# add it here: of anything that implements Runner, candidate() makes what is timed.
CANDIDATES: Dict[str, tuple] = {
    'pytorch': ('PyTorch', pytorch_candidate),
    'compile': ('PyTorch compiled', partial(pytorch_candidate, compiled=True)),
    **{name: (title, partial(graph_candidate, backend=name)) for name, title in TITLES.items()},
}

# Other implementations of the same detector: timed only when asked for by name.
PEERS: Dict[str, tuple] = {
    'transformers': ('transformers', transformers_candidate),
    'transformers-compile': (
        'transformers compiled',
        partial(transformers_candidate, compiled=True),
    ),
}


def makers_of_config(
    config: Path,
    checkpoint: Optional[Path],
    changes: Sequence[str],
    request: Request,
    folder: Path,
) -> Dict[str, Callable[[], Candidate]]:
    """What makes each candidate, by its name; arguments as those of :class:`ConfigSource`.

    Raises:
        ValueError: TensorRT on a CPU, or a GPU that is not there.
    """
    names = list(request.backends or CANDIDATES)
    if request.device == 'cpu' and 'tensorrt' in names:
        if request.backends:
            raise ValueError('--device cpu: TensorRT runs on GPUs alone')
        names.remove('tensorrt')
    torch.set_num_threads(request.protocol.threads)
    torch.backends.cudnn.benchmark = True  # the size of the input never changes
    source = ConfigSource(config, checkpoint, changes, request, folder)
    known = {**CANDIDATES, **PEERS}
    return {title: partial(make, source, title) for title, make in map(known.get, names)}
