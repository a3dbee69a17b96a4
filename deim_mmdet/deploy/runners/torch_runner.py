# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""PyTorch with the interface of what runs exported files: to be timed beside them."""

import copy
from typing import Dict, List, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from deim_mmdet.models.layers.conv import switch_to_deploy

from ..export.end_to_end import EndToEnd, raw_predictions
from ..metadata import Metadata
from .runner import Runner


class TorchRunner(Runner):
    """A detector in its deploy form, fused, with the channels last.

    In float16 the weights of convolutions and linear layers are stored so and autocast decides the
    rest, as in mixed-precision training; positions and boxes stay float32.

    Args:
        detector (BaseDetector): Trained detector; it is not changed.
        metadata (Metadata): What an exported file would say, with ``pixels='normalized'``.
        device (str): 'cpu', 'cuda' or 'cuda:1'. Defaults to 'cpu'.
        half (bool): float16. Defaults to False.
        compiled (bool): With ``torch.compile``, on a GPU with CUDA graphs. Defaults to False.
        postprocess (bool): False ends with class logits and boxes of all queries. Defaults to True.
    """

    def __init__(
        self,
        detector: nn.Module,
        metadata: Metadata,
        device: str = 'cpu',
        half: bool = False,
        compiled: bool = False,
        postprocess: bool = True,
    ) -> None:
        self.metadata = metadata
        self.name = f'PyTorch {torch.__version__}'
        detector = switch_to_deploy(copy.deepcopy(detector), fold_all_norms=True)
        module = EndToEnd(detector) if postprocess else RawPredictions(detector)
        self.place(module.to(memory_format=torch.channels_last), device, half, compiled)

    def place(self, module: nn.Module, device: str, half: bool, compiled: bool) -> None:
        """Make a module what is run; arguments as of the class."""
        self.target = torch.device(device)
        self.device = self.target.type
        self.half = half
        if half:
            halve_weights(module)
        self.module = module.eval().requires_grad_(False).to(self.target)
        if compiled:
            mode = 'reduce-overhead' if self.device == 'cuda' else 'default'
            self.module = torch.compile(self.module, mode=mode, dynamic=False)

    def run(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:
        return [value.float().cpu().numpy() for value in self._forward(self._inputs(feeds))]

    def gpu_times(self, feeds: Dict[str, np.ndarray], count: int) -> List[float]:
        """Milliseconds that each of some runs takes on the GPU, without copies to and from it.

        Raises:
            ValueError: It runs on the CPU.
        """
        if self.device != 'cuda':
            raise ValueError(f'PyTorch runs on {self.device}: only a GPU has a clock of its own')
        inputs = self._inputs(feeds)
        times = []
        with torch.cuda.device(self.target):
            for _ in range(count):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                self._forward(inputs)
                end.record()
                end.synchronize()  # each run begins on an idle GPU
                times.append(start.elapsed_time(end))
        return times

    def _inputs(self, feeds: Dict[str, np.ndarray]) -> List[Tensor]:
        return [
            torch.from_numpy(feeds['images']).to(self.target, memory_format=torch.channels_last)
        ]

    @torch.inference_mode()
    def _forward(self, inputs: List[Tensor]) -> Tuple[Tensor, ...]:
        with torch.autocast(self.device, torch.float16, enabled=self.half):
            return self.module(*inputs)


class RawPredictions(nn.Module):
    """Class logits and boxes of all queries, see :func:`raw_predictions`."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        return raw_predictions(self.detector, images)


def halve_weights(module: nn.Module) -> None:
    """Store in float16 what autocast would make float16 in each run, and nothing else: buffers such
    as positions keep their bits."""
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            for parameter in child.parameters(recurse=False):
                parameter.data = parameter.data.half()
