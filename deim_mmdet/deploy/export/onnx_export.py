# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""From a trained detector to an ONNX file of standard operators."""

import copy
import inspect
import io
import logging
import math
import os
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Optional, Tuple, Union

import onnx
import torch
import torch.nn as nn

from deim_mmdet.models.layers.conv import switch_to_deploy
from deim_mmdet.new_output import new_output

from ..metadata import DIVISOR, KEY, Metadata
from .detection_transformers import DetectionTransformer, prepare_trace
from .end_to_end import EndToEnd, InputFormat
from .graph import Graph, foreign_operators
from .half import drop_marks, mark_single, to_half
from .plain_attention import use_plain_attention
from .simplify import simplify
from .tracing import FixSizes, LinspaceOfOne, MarkSinglePrecision

# The first has LayerNormalization, the one before GridSample; the tracing exporter ends at 20.
OPSETS = range(17, 21)
OUTPUTS = ('boxes', 'scores', 'labels')


@dataclass(frozen=True)
class ExportOptions:
    """What kind of graph is made.

    Attributes:
        hw (tuple[int, int]): Height and width of the input in pixels; of a dynamic graph, those it
            is traced with.
        input_format (InputFormat): What the graph takes.
        batch_size (int, optional): Images per run; None for any number.
        dynamic_size (bool): Take every height and width that are multiples of 32 (any, with
            ``input_format.pad``).
        half (bool): Type the graph in float16, see :mod:`.half`.
        opset (int): Version of the ONNX operators.
        candidates (bool): Of YOLOv8, all candidates, before non-maximum suppression.
    """

    hw: Tuple[int, int] = (640, 640)
    input_format: InputFormat = InputFormat()
    batch_size: Optional[int] = 1
    dynamic_size: bool = False
    half: bool = False
    opset: int = 17
    candidates: bool = False

    def __post_init__(self):
        if self.opset not in OPSETS:
            raise ValueError(
                f'opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {self.opset}: GridSample and '
                'LayerNormalization are not older, the exporter is not newer'
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {self.batch_size}')
        if min(self.hw) < 1:
            raise ValueError(f'height and width must be positive, got {self.hw}')
        if self.input_format.resize and self.dynamic_size:
            raise ValueError('a graph that resizes takes images of any size: without dynamic_size')
        if any(side % DIVISOR for side in self.hw) and not self.input_format.pad:
            nearest = ' x '.join(str(math.ceil(side / DIVISOR) * DIVISOR) for side in self.hw)
            raise ValueError(
                f'height and width must be multiples of {DIVISOR}, got {self.hw[0]} x '
                f'{self.hw[1]}: take {nearest}, or let the graph pad its input (--pad)'
            )


def export_onnx(
    detector: nn.Module,
    path: Union[str, os.PathLike],
    options: ExportOptions = ExportOptions(),
    metadata: Optional[Metadata] = None,
    check: Optional[Callable[[Path], None]] = None,
    overwrite: bool = False,
) -> onnx.ModelProto:
    """Write a detector as an ONNX file.

    Args:
        detector (BaseDetector): Trained detector in its training form; it is not changed.
        path (str | PathLike): The new file.
        options (ExportOptions): What kind of graph.
        metadata (Metadata, optional): What the file says about itself; :class:`Detector` needs it.
        check (callable, optional): Gets the finished file under a temporary name; if it raises,
            nothing is left at ``path``.
        overwrite (bool): Replace an existing file. Defaults to False.

    Returns:
        ModelProto: What was written. Inputs: ``images`` and, on demand, ``original_hw``; outputs:
        ``boxes`` (batch, K, 4) float32, ordered (x1, y1, x2, y2), in pixels, ``scores`` (batch, K)
        float32, falling, ``labels`` (batch, K) int64.

    Raises:
        FileExistsError: ``path`` exists.
        TypeError: A detector that cannot be exported.
        ValueError: Options that the detector cannot have, or weights that float16 cannot hold.
    """
    module = deploy_form(detector, options)
    graph = Graph(trace(module, options))
    mark_single(graph)
    if not options.half:
        drop_marks(graph)
    simplify(graph)
    if options.half:
        to_half(graph)
        simplify(graph)
    settle_outputs(graph, options)
    model = graph.to_model()
    refuse_foreign_operators(model)
    model.producer_name = 'deim_mmdet'
    if metadata is not None:
        model.producer_version = metadata.version
        model.metadata_props.add(key=KEY, value=metadata.to_json())
    onnx.checker.check_model(model, full_check=True)
    with new_output(path, overwrite) as new:
        onnx.save(model, new)
        if check is not None:
            check(new)
    return model


def deploy_form(detector: nn.Module, options: ExportOptions) -> EndToEnd:
    """A copy of the detector, fused, in the form that is traced."""
    copied = switch_to_deploy(copy.deepcopy(detector).cpu().float(), fold_all_norms=True)
    use_plain_attention(copied)
    if isinstance(copied, DetectionTransformer):
        prepare_trace(copied)
    mode = partial(_tracing, options.dynamic_size, options.batch_size is None)
    module = EndToEnd(copied, options.input_format, options.hw, mode, options.candidates)
    return module.eval().requires_grad_(False)


@contextmanager
def _tracing(dynamic_size: bool, dynamic_batch: bool):
    with ExitStack() as stack:
        stack.enter_context(MarkSinglePrecision())
        stack.enter_context(LinspaceOfOne())
        if not dynamic_size:
            stack.enter_context(FixSizes(but_batch=dynamic_batch))
        yield


def trace(module: EndToEnd, options: ExportOptions) -> onnx.ModelProto:
    """The graph as PyTorch's exporter writes it."""
    inputs = example_inputs(options)
    names = ['images', 'original_hw'][: len(inputs)]
    axes = dynamic_axes(options, names)
    # the exporter that is the default from PyTorch 2.9 on needs onnxscript and writes functions
    kwargs = {'dynamo': False} if _has('dynamo') else {}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of each place where a size becomes a number
        logger = logging.getLogger('torch.onnx')
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                module,
                inputs,
                buffer,
                opset_version=options.opset,
                input_names=names,
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                **kwargs,
            )
        finally:
            logger.setLevel(level)
    return onnx.load_from_string(buffer.getvalue())


def _has(argument: str) -> bool:
    return argument in inspect.signature(torch.onnx.export).parameters


def example_inputs(options: ExportOptions, seed: int = 0) -> Tuple[torch.Tensor, ...]:
    """Inputs of the shapes and types that the graph takes."""
    image_format = options.input_format
    generator = torch.Generator().manual_seed(seed)
    # a batch of one would let the exporter take the dimension for a constant
    shape = (options.batch_size or 2, 3, *options.hw)
    images = torch.rand(shape, generator=generator)
    if image_format.pixels != 'normalized':
        images = images * 255
    if image_format.pixels == 'uint8':
        images = images.to(torch.uint8)
    if image_format.layout == 'nhwc':
        images = images.permute(0, 2, 3, 1).contiguous()
    if not image_format.original_size:
        return (images,)
    return images, torch.tensor([options.hw] * shape[0], dtype=torch.float32)


def dynamic_axes(options: ExportOptions, names) -> dict:
    """Names of the dimensions that may differ from run to run."""
    batch = {0: 'batch'} if options.batch_size is None else {}
    axes = {name: dict(batch) for name in (*names, *OUTPUTS)}
    if options.dynamic_size or options.input_format.resize:
        height = 2 if options.input_format.layout == 'nchw' else 1
        axes['images'].update({height: 'height', height + 1: 'width'})
    return {name: dims for name, dims in axes.items() if dims}


def settle_outputs(graph: Graph, options: ExportOptions) -> None:
    """State the shapes of the outputs, which the exporter leaves open."""
    graph.infer()
    batch = options.batch_size or 'batch'
    for output in graph.outputs:
        count = (graph.shape(output.name) or (None, None))[1]
        rest = (4,) if output.name == 'boxes' else ()
        shape = (batch, count if isinstance(count, int) else 'detections', *rest)
        element = output.type.tensor_type.elem_type
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, element, shape))


def refuse_foreign_operators(model: onnx.ModelProto) -> None:
    """Promise that every reader of ONNX knows all operators."""
    found = foreign_operators(model)
    assert not found, f'operators outside the standard: {found}'
