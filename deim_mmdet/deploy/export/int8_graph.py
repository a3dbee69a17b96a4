# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import List, Optional, Sequence

import onnx
from mmengine.config import Config

from .. import int8_report
from ..detector import Detector
from ..sample_images import spread
from .quantize import quantize, round_in_single


class Int8Graph:
    """An exported graph with layers in int8, and what that costs.

    Args:
        graph (Path): What :func:`export_onnx` wrote; the new files appear beside it.
        images (Sequence[Path]): Images to calibrate on.
        choice: What :func:`quantize` is to do: its ``operators``, ``method``, ``skip``, ``ends``.

    Attributes:
        path (Path): The graph as TensorRT wants it.
        rounded (Path): The same for ONNX Runtime, see :func:`round_in_single`.
        layers (list[str]): Names of the layers in int8.
    """

    def __init__(self, graph: Path, images: Sequence[Path], **choice) -> None:
        self.images = images
        self.before = Detector(graph, 0.0)
        self.path, self.rounded = (graph.with_name(f'{n}.onnx') for n in ('int8', 'rounded'))
        feeds = (self.before.feeds([path])[0] for path in images)
        self.layers = quantize(graph, self.path, feeds, **choice)
        onnx.save(round_in_single(onnx.load(self.path)), self.rounded)

    def cost_of_ap(self, path: Path, config: Config, max_drop: Optional[float] = None) -> str:
        """What a file that was made of the graph finds on a test set, see :func:`ap_report`."""
        return int8_report.ap_report(self.before, self._open(path), config, max_drop)

    def cost_of_detections(self, path: Path, others: List[Path], count: int) -> str:
        """What a file that was made of the graph finds again, see :func:`agreement_report`.

        Args:
            path (Path): The file.
            others (list[Path]): Images that were not calibrated on.
            count (int): For want of such, so many of those that were.
        """
        images, source = others, f'{len(others)} other images of the folder'
        if not images:
            images = spread(self.images, count)
            source = f'{len(images)} images of the calibration, for want of others'
        return int8_report.agreement_report(self.before, self._open(path), images, source)

    def _open(self, path: Path) -> Detector:
        """What runs here computes what TensorRT does."""
        return Detector(self.rounded if path == self.path else path, 0.0)
