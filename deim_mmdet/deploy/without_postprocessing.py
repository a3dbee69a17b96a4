# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import onnx
from onnx.utils import Extractor

# Operators that turn scores into indices.
SELECTIONS = ('ArgMax', 'NonMaxSuppression', 'TopK')


def without_postprocessing(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph up to the scores and boxes of all queries, from which detections are selected.

    Post-processing begins with the operators that the labels come from: labels are indices, and
    those come from scores in one of :data:`SELECTIONS`. Whatever does not depend on these operators
    stays.

    Args:
        model (ModelProto): Exported detector with an output ``labels``; it is not changed.

    Returns:
        ModelProto: Its outputs are what post-processing reads: scores and boxes.

    Raises:
        ValueError: There is no output ``labels``, or none that comes from scores.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    if 'labels' not in [value.name for value in graph.output]:
        raise ValueError('the graph has no output named labels: its post-processing is unknown')
    first = _label_selections(graph)
    if not first:
        raise ValueError(f'the labels come from none of {", ".join(SELECTIONS)}')
    from_images = _descendants(graph, ['images'])
    selected = _descendants(graph, [name for node in first for name in node.output])
    read = [
        name
        for node in graph.node
        if node in first or any(name in selected for name in node.input)
        for name in node.input
        if name in from_images and name not in selected
    ]
    inputs = [value.name for value in graph.input]
    outputs = [name for name in dict.fromkeys(read) if name not in inputs]
    cut = Extractor(model).extract_model(_inputs_of(graph, outputs), outputs)
    cut.metadata_props.extend(model.metadata_props)
    return cut


def _label_selections(graph: onnx.GraphProto) -> list:
    """The operators that make indices of the scores, out of which the labels are computed."""
    makers = {name: node for node in graph.node for name in node.output}
    elements = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    integers = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    found, seen, todo = [], set(), ['labels']
    while todo:
        name = todo.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        if node.op_type in SELECTIONS:
            found.append(node)
        todo += [x for x in node.input if elements.get(x) in integers]
    return found


def _descendants(graph: onnx.GraphProto, names) -> set:
    """Values that depend on some, these included; nodes are in order."""
    found = set(names)
    for node in graph.node:
        if any(name in found for name in node.input):
            found.update(node.output)
    return found


def _inputs_of(graph: onnx.GraphProto, names) -> list:
    """Inputs of the graph that values depend on."""
    needed = set(names)
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(node.input)
    return [value.name for value in graph.input if value.name in needed]
