# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Eight-bit integers in an exported graph, by explicit QuantizeLinear and DequantizeLinear.

An exported graph of any precision gets pairs of the two where TensorRT fuses them with the layer
that reads them. The rules:

1. Layers in integers are convolutions and, on demand, matrix products with constant weights. Their
   weights are int8 with a scale per output channel, their inputs int8 with one scale.
2. Of a convolution that is added to something (a residual connection), the other summand is int8,
   too: the sum is then part of the convolution's kernel.
3. Zero points are 0, as TensorRT wants them. Biases and everything else keep their types.
4. Stay as they are: layers that read the image, layers that compute results (boxes, scores, the
   places that are sampled), and layers that read results. Eight bits of a position are too few.

Not onnxruntime.quantization: its calibrators hold all activations of all images in memory, and its
pairs know neither rule 2 nor rule 4.
"""

import os
import tempfile
from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
import onnx
from onnx import TensorProto

from deim_mmdet.new_output import new_output

from ..agreement import Agreement, compare_files
from ..detector import Detector, Image
from ..metadata import KEY, Metadata
from .calibration import LEVELS, METHODS, observe
from .graph import Graph, Node

# Operator -> axis of the output channels of its weights, which are its second input.
LAYERS = {'Conv': 0, 'MatMul': 1}
# Inputs that are results: what is compared, and where a map is sampled.
RESULT_INPUTS = {'TopK': (0,), 'GridSample': (1,), 'NonMaxSuppression': (0, 1)}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# The first version of the operators whose scales may be float16.
HALF_OPSET = 19


def quantize(
    onnx_path: Union[str, os.PathLike],
    out: Union[str, os.PathLike],
    feeds: Iterable[Dict[str, np.ndarray]],
    operators: Sequence[str] = ('Conv',),
    method: str = 'max',
    skip: Sequence[str] = (),
    ends: bool = False,
    check: Optional[Callable[[Path], None]] = None,
    overwrite: bool = False,
) -> List[str]:
    """Write an exported file again, with layers in int8.

    Args:
        onnx_path (str | PathLike): What :func:`export_onnx` wrote, in float32 or float16.
        out (str | PathLike): The new file. Its metadata is that of the old one, with the precision
            'int8'.
        feeds (Iterable[dict[str, ndarray]]): Inputs of the graph, of images as they will come.
        operators (Sequence[str]): Of 'Conv' and 'MatMul'. Defaults to convolutions.
        method (str): What becomes the largest integer, see :mod:`.calibration`: 'max' (the largest
            value that was seen), 'percentile' or 'entropy'. Defaults to 'max'.
        skip (Sequence[str]): Patterns of names of layers that stay as they are, as
            ``/backbone/stem/*``.
        ends (bool): Quantise the layers of rule 4, too. Defaults to False.
        check (callable, optional): Gets the finished file under a temporary name; if it raises,
            nothing is left at ``out``.
        overwrite (bool): Replace an existing file. Defaults to False.

    Returns:
        list[str]: Names of the layers in int8.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: No feeds; unknown operators or methods; a pattern without a layer; a graph that
            has integers already, that has no layer for them, or whose opset has no scales of its
            type.
    """
    model = _load(onnx_path)
    graph = Graph(model)
    layers = choose(graph, operators, skip, ends)
    limits = _limits(model, graph, layers, method, feeds)
    insert(graph, layers, limits)
    quantized = to_model(graph, model, str(onnx_path))
    with new_output(out, overwrite, source=onnx_path) as new:
        onnx.save(quantized, new)
        if check is not None:
            check(new)
    return [node.name for node in layers]


def _load(path: Union[str, os.PathLike]) -> onnx.ModelProto:
    model = onnx.load(str(path))
    if any(node.op_type == 'QuantizeLinear' for node in model.graph.node):
        raise ValueError(f'{path} has eight-bit layers already: start from the float file')
    return model


def _limits(model, graph, layers, method, feeds) -> Dict[str, float]:
    """The value that becomes the largest integer, of all inputs of the layers."""
    if method not in METHODS:
        raise ValueError(f'method must be one of {", ".join(METHODS)}, got {method!r}')
    names = [name for name, _ in readers(graph, layers)]
    seen = observe(model, list(dict.fromkeys(names)), feeds)
    return {name: METHODS[method](magnitudes) for name, magnitudes in seen.items()}


def sensitivity(
    onnx_path: Union[str, os.PathLike],
    images: Sequence[Image],
    operators: Sequence[str] = ('Conv',),
    method: str = 'max',
    skip: Sequence[str] = (),
    ends: bool = False,
) -> List[Tuple[str, Agreement]]:
    """What each layer would cost if it were the only one in int8.

    Args:
        onnx_path, operators, method, skip, ends: As for :func:`quantize`.
        images (Sequence[ndarray | str | PathLike]): Images to calibrate and to compare on.

    Returns:
        list[tuple[str, Agreement]]: Names of layers, those that cost most first.
    """
    model = _load(onnx_path)
    graph = Graph(model)
    layers = choose(graph, operators, skip, ends)
    before = Detector(onnx_path, backend='onnxruntime')
    before.score_threshold = before.metadata.score_threshold / 2
    feeds = (before.feeds([image])[0] for image in images)
    limits = _limits(model, graph, layers, method, feeds)
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'model.onnx')
        for name in [node.name for node in layers]:
            graph = Graph(model)
            graph.infer()
            insert(graph, [node for node in graph.nodes if node.name == name], limits)
            onnx.save(to_model(graph, model, str(onnx_path)), path)
            after = Detector(path, before.score_threshold)
            costs.append((name, compare_files(before, after, images)))
    return sorted(costs, key=lambda cost: -cost[1].loss)


# ---- which layers --------------------------------------------------------------------------------


def choose(
    graph: Graph, operators: Sequence[str], skip: Sequence[str] = (), ends: bool = False
) -> List[Node]:
    """The layers to quantise, in their order; arguments as those of :func:`quantize`."""
    unknown = [name for name in operators if name not in LAYERS]
    if unknown:
        raise ValueError(f'operators are of {", ".join(LAYERS)}, got {", ".join(unknown)}')
    graph.infer()
    layers = weighted_layers(graph)
    for pattern in skip:
        if not any(fnmatchcase(node.name, pattern) for node in layers):
            raise ValueError(
                f'no layer is named {pattern}; names are as {layers[0].name}'
                if layers
                else 'the graph has no layer with weights'
            )
    at_ends = set() if ends else float_layers(graph, layers)
    chosen = [
        node
        for node in layers
        if node.op_type in operators
        and id(node) not in at_ends
        and not any(fnmatchcase(node.name, pattern) for pattern in skip)
    ]
    if not chosen:
        raise ValueError('nothing is left to quantise')
    if graph.opset < HALF_OPSET and any(
        graph.type(node.inputs[0]) == TensorProto.FLOAT16 for node in chosen
    ):
        raise ValueError(
            f'float16 scales need opset {HALF_OPSET}, the graph has {graph.opset}: export it with '
            f'--opset {HALF_OPSET}'
        )
    return chosen


def weighted_layers(graph: Graph) -> List[Node]:
    """Nodes of :data:`LAYERS` with constant weights."""
    return [
        node
        for node in graph.nodes
        if node.op_type in LAYERS
        and node.inputs[0] not in graph.constants
        and getattr(graph.constants.get(node.inputs[1]), 'ndim', 0) >= 2
    ]


def float_layers(graph: Graph, layers: Sequence[Node]) -> Set[int]:
    """Ids of the layers that rule 4 keeps as they are.

    One layer reads another where no third lies between: normalisation, activation, attention's
    softmax and sampling do not count.
    """
    ids = {id(node) for node in layers}
    from_image = _values_from(graph, [value.name for value in graph.inputs], ids)
    first = {id(node) for node in layers if node.inputs[0] in from_image}
    last = _makers_of_results(graph, ids)
    results = [name for node in layers if id(node) in last for name in node.outputs]
    from_results = _values_from(graph, results, ids)
    after = {id(node) for node in layers if node.inputs[0] in from_results}
    return first | last | after


def _values_from(graph: Graph, names: Sequence[str], layers: Set[int]) -> Set[str]:
    """Floats that are computed from the given values without another layer.

    What is sampled or selected is not computed from where that was done: indices are no floats.
    """
    found = set(names)
    for node in graph.nodes:
        if id(node) in layers:
            continue
        inputs = node.inputs[:1] if node.op_type == 'GridSample' else node.inputs
        if found.intersection(inputs):
            found.update(name for name in node.outputs if graph.type(name) in FLOATS)
    return found


def _makers_of_results(graph: Graph, layers: Set[int]) -> Set[int]:
    """Ids of the layers from which results come without another layer."""
    wanted = {output.name for output in graph.outputs}
    found = set()
    for node in reversed(graph.nodes):
        wanted.update(node.inputs[i] for i in RESULT_INPUTS.get(node.op_type, ()))
        if not wanted.intersection(node.outputs):
            continue
        if id(node) in layers:
            found.add(id(node))
        else:
            wanted.update(name for name in node.inputs if graph.type(name) in FLOATS)
    return found


# ---- the pairs -----------------------------------------------------------------------------------


def readers(graph: Graph, layers: Sequence[Node]) -> List[Tuple[str, List[Tuple[Node, int]]]]:
    """Values to quantise, and who reads them so: (name, [(node, number of its input)])."""
    found = defaultdict(list)
    for node in layers:
        found[node.inputs[0]].append((node, 0))
    convs = {node.outputs[0] for node in layers if node.op_type == 'Conv'}
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op_type != 'Add':
            continue
        for conv, other in ((1, 0), (0, 1)):
            value = node.inputs[other]
            fused = node.inputs[conv] in convs and len(consumers[node.inputs[conv]]) == 1
            if fused and value not in graph.constants:
                found[value].append((node, other))
                break
    return list(found.items())


def insert(graph: Graph, layers: Sequence[Node], limits: Dict[str, float]) -> None:
    """Put the pairs into a graph, in place.

    Args:
        graph (Graph): The graph, after :meth:`Graph.infer`.
        layers (Sequence[Node]): The layers to quantise.
        limits (dict[str, float]): The value that becomes 127, of what :func:`readers` names.
    """
    nodes_after, weights = defaultdict(list), {}
    for name, uses in readers(graph, layers):
        dtype = np.float16 if graph.type(name) == TensorProto.FLOAT16 else np.float32
        scale = graph.add_constant(_scale(np.float32(limits[name]), dtype), f'{name}.scale')
        zero = graph.add_constant(np.int8(0), f'{name}.zero')
        small, large = graph.new_name(f'{name}.int8'), graph.new_name(f'{name}.float')
        nodes_after[name] += [
            Node('QuantizeLinear', [name, scale, zero], [small], {}, small),
            Node('DequantizeLinear', [small, scale, zero], [large], {}, large),
        ]
        for node, i in uses:
            node.inputs[i] = large
    for node in layers:
        name = node.inputs[1]
        if name not in weights:
            weights[name] = _quantize_weights(graph, name, LAYERS[node.op_type])
        node.inputs[1] = weights[name].outputs[0]
    nodes = list(weights.values())
    for value in graph.inputs:
        nodes += nodes_after[value.name]
    for node in graph.nodes:
        nodes.append(node)
        for name in node.outputs:
            nodes += nodes_after.get(name, ())
    graph.nodes = nodes
    used = {name for node in nodes for name in node.inputs} | {o.name for o in graph.outputs}
    graph.constants = {name: value for name, value in graph.constants.items() if name in used}


def _quantize_weights(graph: Graph, name: str, axis: int) -> Node:
    values = graph.constants[name].astype(np.float32)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = _scale(np.abs(values).max(others, keepdims=True), graph.constants[name].dtype)
    small = np.rint(values / scale.astype(np.float32)).clip(-LEVELS, LEVELS).astype(np.int8)
    inputs = [
        graph.add_constant(small, f'{name}.int8'),
        graph.add_constant(scale.reshape(-1), f'{name}.scale'),
        graph.add_constant(np.zeros(scale.size, np.int8), f'{name}.zero'),
    ]
    large = graph.new_name(f'{name}.float')
    return Node('DequantizeLinear', inputs, [large], dict(axis=axis), large)


def _scale(limit: np.ndarray, dtype) -> np.ndarray:
    """Value of one step, positive also where all values are 0 or too small for the type."""
    steps = np.asarray(limit / np.float32(LEVELS)).astype(dtype)
    least = np.finfo(dtype).smallest_subnormal
    return np.where(limit > 0, np.maximum(steps, least), np.ones((), dtype))


def round_in_single(model: onnx.ModelProto) -> onnx.ModelProto:
    """A quantised float16 graph that also ONNX Runtime's CPU rounds as the standard says.

    Its QuantizeLinear (1.22.1) cuts float16 off where it should round, which costs points of AP. In
    float32 it rounds. TensorRT does both right and is spared the casts.
    """
    graph = Graph(model)
    graph.infer()
    nodes = []
    for node in graph.nodes:
        if node.op_type == 'QuantizeLinear' and graph.type(node.inputs[1]) == TensorProto.FLOAT16:
            name, scale, zero = node.inputs
            single = graph.new_name(f'{name}.single')
            nodes.append(Node('Cast', [name], [single], dict(to=TensorProto.FLOAT), single))
            scale = graph.add_constant(graph.constants[scale].astype(np.float32), f'{scale}.single')
            node.inputs = [single, scale, zero]
        nodes.append(node)
    graph.nodes = nodes
    return to_model(graph, model, 'the graph')


def to_model(graph: Graph, model: onnx.ModelProto, path: str) -> onnx.ModelProto:
    """The quantised graph as a model that says what ``model`` says about itself."""
    quantized = graph.to_model()
    quantized.producer_name = model.producer_name
    quantized.producer_version = model.producer_version
    quantized.metadata_props.extend(model.metadata_props)
    for entry in quantized.metadata_props:
        if entry.key == KEY:
            metadata = replace(Metadata.from_json(entry.value, path), precision='int8')
            entry.value = metadata.to_json()
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
