# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

import torch.nn as nn

from deim_mmdet.models.detectors import YOLOv8

from ..metadata import Metadata
from ..tensorrt_build import (
    OnnxFile,
    Range,
    build_engine,
    choose_target,
    input_shapes,
    refuse_single_products,
)
from ..tensorrt_file import why_not_here
from .onnx_export import ExportOptions, dynamic_axes, example_inputs
from .target import Check, Target

INPUTS = ('images', 'original_hw')


class TensorRTTarget(Target):
    """An engine, for the GPU at hand or for one that is elsewhere.

    Args:
        compute_capabilities, shapes, timing_cache, flavour: As for :func:`build_engine`.
        single_products (bool): Whether a float32 graph multiplies matrices in float32. Defaults to
            True.

    Raises:
        ImportError: TensorRT is missing.
        ValueError: There is no such GPU, or TensorRT builds nothing for it.
    """

    def __init__(
        self,
        compute_capabilities: Optional[Sequence[str]] = None,
        shapes: Optional[Mapping[str, Range]] = None,
        timing_cache: Optional[str] = None,
        flavour: Optional[str] = None,
        single_products: bool = True,
    ) -> None:
        self.compute_capabilities = compute_capabilities
        self.shapes = shapes or {}
        self.timing_cache = timing_cache
        self.single_products = single_products
        self.trt, _, self.capabilities = choose_target(flavour, compute_capabilities)
        if self.trt.is_rtx and timing_cache:
            raise ValueError(
                f'{self.trt.name} measures nothing while it builds: leave --timing-cache out'
            )

    def adapt(self, detector: nn.Module, options: ExportOptions) -> ExportOptions:
        """NOTE TensorRT-RTX has no non-maximum suppression; Detector does it."""
        return replace(options, candidates=True) if isinstance(detector, YOLOv8) else options

    def refuse(self, detector: nn.Module, options: ExportOptions, metadata: Metadata) -> None:
        # YOLOv8 may consist of convolutions alone
        if self.single_products and not options.half and not isinstance(detector, YOLOv8):
            who = f'{type(detector).__name__} does'
            refuse_single_products(self.trt, self.capabilities, who)
        axes = dynamic_axes(options, INPUTS)
        inputs = {
            name: tuple(axes.get(name, {}).get(i, side) for i, side in enumerate(value.shape))
            for name, value in zip(INPUTS, example_inputs(options))
        }
        input_shapes(OnnxFile(Path('the graph'), b'', metadata, inputs, []), self.shapes)

    def write(self, graph: Path, out: Path, check: Check, overwrite: bool = False) -> List[str]:
        """NOTE the graph is checked, and the engine as well where this machine can run it."""
        said = []

        def check_engine(engine: Path) -> None:
            reason = why_not_here(engine)
            if reason is None:
                check(engine)
            elif self.compute_capabilities:
                gpus = ' or '.join(self.capabilities)
                said.append(
                    f'the graph was compared; the engine was not run, which takes a GPU of compute '
                    f'capability {gpus}, {self.trt.name} and cuda-bindings'
                )
            else:
                said.append(f'the graph was compared, its engine cannot run here: {reason}')

        check(graph)
        info = build_engine(
            graph,
            out,
            self.compute_capabilities,
            self.shapes,
            self.timing_cache,
            overwrite,
            self.trt.flavour,
            check=check_engine,
        )
        gpus = ', '.join(info.compute_capabilities) + (f' ({info.gpu})' if info.gpu else '')
        return [*said, f'{info.built_by}, compute capability {gpus}']
