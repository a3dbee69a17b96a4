# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""mmdeploy's export writes the graph that ``tools/export.py`` makes."""

import inspect
import tempfile
from pathlib import Path
from typing import Sequence

import numpy as np
import onnx
import torch
import torch.nn as nn
from mmdeploy.apis.core import PIPELINE_MANAGER
from mmdeploy.apis.onnx import export
from mmdeploy.core import FUNCTION_REWRITER, SYMBOLIC_REWRITER
from onnx import helper

from deim_mmdet.deploy.export.end_to_end import raw_predictions
from deim_mmdet.deploy.export.graph import Graph, Node
from deim_mmdet.deploy.export.onnx_export import ExportOptions, export_onnx
from deim_mmdet.new_output import new_output

from .deploy_config import is_ours, wants_half

# Who made a graph.
PRODUCER = 'deim_mmdet'


class FinishedGraph(nn.Module):
    """Stands where mmdeploy expects a detector, and holds what is only to be written.

    Attributes:
        graph (ModelProto): The detector, from images to detections.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *args, **kwargs):
        raise AssertionError('a finished graph is written, not traced')


def finish_graph(*args, **kwargs):
    """Hook before mmdeploy's ``export``: the detector becomes a :class:`FinishedGraph`.

    NOTE mmdeploy replaces functions of PyTorch while it traces (topk, cat, layer norms, ...), for
    older exporters and its own operators. The trace here is over before.
    """
    call = inspect.signature(export).bind(*args, **kwargs)
    call.apply_defaults()
    detector = call.arguments['model']
    known = raw_predictions.dispatch(type(detector)) is not raw_predictions.dispatch(object)
    if known and is_ours(call.arguments['context_info'].get('deploy_cfg', {})):
        call.arguments['model'] = FinishedGraph(graph_of(detector, call.arguments))
    return call.args, call.kwargs


def graph_of(detector: nn.Module, call: dict) -> onnx.ModelProto:
    """The graph that a call of mmdeploy's ``export`` asks for, under its names."""
    images = call['args'] if isinstance(call['args'], torch.Tensor) else call['args'][0]
    names = [*call['input_names'], *call['output_names']]
    dynamic = (call['dynamic_axes'] or {}).get(names[0], ())
    options = ExportOptions(
        hw=tuple(images.shape[-2:]),
        batch_size=None if 0 in dynamic else len(images),
        dynamic_size=2 in dynamic or 3 in dynamic,
        half=wants_half(call['context_info'].get('deploy_cfg', {})),
        opset=call['opset_version'],
    )
    with tempfile.TemporaryDirectory() as folder:
        model = export_onnx(detector, Path(folder, 'model.onnx'), options)
    return in_terms_of_mmdeploy(model, names)


def in_terms_of_mmdeploy(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with mmdeploy's inputs and outputs.

    Args:
        model (ModelProto): From ``images`` to ``boxes``, ``scores`` and ``labels``.
        names (Sequence[str]): For the images, the detections (bs, K, 5), which are boxes and scores
            side by side, and the labels (bs, K).
    """
    graph = Graph(model)
    boxes, scores, labels = graph.outputs
    batch, count, _ = (d.dim_value or d.dim_param for d in boxes.type.tensor_type.shape.dim)
    column, axes = graph.new_name('score_column'), graph.add_constant(np.array([2]), 'axes')
    graph.nodes += [
        Node('Unsqueeze', [scores.name, axes], [column], name=column),
        Node('Concat', [boxes.name, column], [names[1]], dict(axis=2), names[1]),
    ]
    for old, new in ((graph.inputs[0].name, names[0]), (labels.name, names[2])):
        for node in graph.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
            node.outputs = [new if name == old else name for name in node.outputs]
    graph.inputs[0].name, labels.name = names[0], names[2]
    dets = helper.make_tensor_value_info(names[1], onnx.TensorProto.FLOAT, (batch, count, 5))
    graph.outputs = [dets, labels]
    finished = graph.to_model()
    finished.producer_name = PRODUCER
    onnx.checker.check_model(finished, full_check=True)
    return finished


PIPELINE_MANAGER.get_input_hooks(export).append(finish_graph)


@FUNCTION_REWRITER.register_rewriter('torch.onnx.export')
def export__finished_or_traced(model, args, f, *more, **kwargs):
    """Write a finished graph; trace any other module."""
    if isinstance(model, FinishedGraph):
        with new_output(f, overwrite=True) as new:
            onnx.save(model.graph, new)
        return None
    original = FUNCTION_REWRITER.get_context().origin_func
    if 'dynamo' in inspect.signature(original).parameters:
        # the default from PyTorch 2.9 on knows nothing of mmdeploy's rewriters
        kwargs.setdefault('dynamo', False)
    return original(model, args, f, *more, **kwargs)


@SYMBOLIC_REWRITER.register_symbolic('grid_sampler', is_pytorch=True, backend='onnxruntime')
@SYMBOLIC_REWRITER.register_symbolic('grid_sampler', is_pytorch=True, backend='tensorrt')
@SYMBOLIC_REWRITER.register_symbolic('grid_sampler', is_pytorch=True, backend='openvino')
def grid_sampler__standard(g, *args):
    """GridSample as ONNX has it from opset 16 on, in the place of mmdeploy's own operator."""
    from torch.onnx import symbolic_opset16

    return symbolic_opset16.grid_sampler(g, *args)
