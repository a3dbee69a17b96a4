# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Types a graph in half precision, value by value: a strongly typed graph.

Engines take such a graph as it is and choose no precision by themselves. The rules, in this order:

1. Convolutions, matrix products and layer norms run in float16: the weights are there, and so is
   nearly all of the time.
2. What the model's source computes after ``.float()`` runs in float32: positions and reference
   points, sampling locations and bilinear sampling, box refinement and box logits, edge distances
   and their distributions, the class scores of the result and the top-k among them.
3. What comes from sizes alone (anchors, positions of a graph of dynamic size) runs in float32.
4. Any other operator runs in float32 where one of its inputs is float32, else in float16.

Inputs and outputs of the graph stay as they are: float32 (or uint8) and int64.
"""

import numpy as np
from onnx import TensorProto

from .graph import Graph, Node
from .tracing import DOMAIN, SINGLE

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_OPERATORS = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'LayerNormalization')
FLOAT_OPERATORS = ('Range', 'NonMaxSuppression', 'CumSum')
# Inputs that the standard fixes to float32 (or that are optional), by position.
FIXED_INPUTS = {'Resize': (1, 2)}
HALF_MAX = float(np.finfo(np.float16).max)


def to_half(graph: Graph) -> None:
    """Type the graph, in place.

    Args:
        graph (Graph): Float32 graph; marked Casts stand where the model asks for single precision.

    Raises:
        ValueError: A weight that float16 cannot hold.
    """
    graph.infer()
    typed = dict.fromkeys((i.name for i in graph.inputs if graph.type(i.name) == FLOAT), FLOAT)
    outputs = {output.name for output in graph.outputs}
    nodes, casts, names = [], {}, {}

    def cast(name: str, to: int) -> str:
        """The value, or a constant, in another type."""
        if name in graph.constants:
            value = graph.constants[name]
            if to == FLOAT or value.dtype != np.float32:
                return name
            if (name, to) not in casts:
                casts[name, to] = graph.add_constant(_half(name, value), f'{name}.half')
            return casts[name, to]
        if typed.get(name, to) == to:
            return name
        if (name, to) not in casts:
            casts[name, to] = graph.new_name(f'{name}.cast')
            nodes.append(Node('Cast', [name], [casts[name, to]], dict(to=to), casts[name, to]))
            typed[casts[name, to]] = to
        return casts[name, to]

    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            node.inputs[i] = names.get(name, name)
        if node.mark:
            assert node.outputs[0] not in outputs
            names[node.outputs[0]] = cast(node.inputs[0], FLOAT)
            continue
        fixed = FIXED_INPUTS.get(node.op_type, ())
        floats = [i for i, n in enumerate(node.inputs) if i not in fixed and _is_float(graph, n)]
        to = _type_of(node, [typed.get(node.inputs[i]) for i in floats])
        for i in floats:
            node.inputs[i] = cast(node.inputs[i], to)
        nodes.append(node)
        for name in node.outputs:
            if name and _is_float(graph, name):
                typed[name] = to
    graph.nodes = nodes
    for output in graph.outputs:
        if typed.get(output.name) == HALF:
            inner = graph.new_name(output.name)
            for node in graph.nodes:
                for values in (node.inputs, node.outputs):
                    for i, name in enumerate(values):
                        values[i] = inner if name == output.name else name
            graph.nodes.append(Node('Cast', [inner], [output.name], dict(to=FLOAT), output.name))


def mark_single(graph: Graph) -> None:
    """Turn the nodes of :mod:`.tracing` into Casts that carry a mark."""
    for node in graph.nodes:
        if (node.domain, node.op_type) == (DOMAIN, SINGLE):
            node.become('Cast', node.inputs, to=FLOAT)
            node.domain, node.mark = '', True


def drop_marks(graph: Graph) -> None:
    """Leave the marks out: everything is in single precision."""
    for node in graph.nodes:
        node.mark = False  # a Cast from float32 to float32


def _type_of(node: Node, inputs: list) -> int:
    """Type that an operator runs in; ``inputs`` are its float inputs', None for constants."""
    if node.op_type in HALF_OPERATORS:
        return HALF
    if node.op_type in FLOAT_OPERATORS or FLOAT in inputs or HALF not in inputs:
        return FLOAT
    return HALF


def _is_float(graph: Graph, name: str) -> bool:
    # what this pass adds has no type there and is float
    return bool(name) and graph.type(name) in (FLOAT, None)


def _half(name: str, value: np.ndarray) -> np.ndarray:
    finite = value[np.isfinite(value)]
    if finite.size and np.abs(finite).max() > HALF_MAX:
        raise ValueError(
            f'float16 reaches to {HALF_MAX:g}, {name} to {np.abs(finite).max():g}: export this '
            'model in float32.'
        )
    return value.astype(np.float16)
