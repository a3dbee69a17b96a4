# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Tuple

import numpy as np
import onnx
from onnx import helper

from ..runners.onnxruntime_runner import open_session
from .graph import Graph, Node
from .half import FLOAT, HALF, HALF_MAX


def largest_half_values(
    model: onnx.ModelProto, feeds: Dict[str, np.ndarray]
) -> List[Tuple[float, str]]:
    """How near a float16 graph comes to the largest number of that type, 65504.

    A value beyond it is infinite, and what is computed from it is wrong.

    Args:
        model (ModelProto): Graph with values in float16; it is not changed.
        feeds (dict[str, ndarray]): Its inputs.

    Returns:
        list[tuple[float, str]]: Largest absolute number, and name, of each value in float16 that
        the graph computes, the largest first; none for a graph in float32.
    """
    graph = Graph(model)
    graph.infer()
    values = [n for node in graph.nodes for n in node.outputs if n and graph.type(n) == HALF]
    graph.outputs = []
    for name in values:
        single, size, largest = (graph.new_name(name) for _ in range(3))
        graph.nodes += [
            Node('Cast', [name], [single], dict(to=FLOAT)),
            Node('Abs', [single], [size]),
            Node('ReduceMax', [size], [largest], dict(keepdims=0)),
        ]
        graph.outputs.append(helper.make_tensor_value_info(largest, FLOAT, ()))
    if not values:
        return []
    session = open_session(graph.to_model().SerializeToString())
    found = zip(map(float, session.run(None, feeds)), values)
    return sorted(found, key=lambda pair: -np.nan_to_num(pair[0], nan=np.inf, posinf=np.inf))


def range_report(model: onnx.ModelProto, feeds: Dict[str, np.ndarray]) -> str:
    """The same in words, with a warning where it is too much."""
    largest, name = largest_half_values(model, feeds)[0]
    text = f'largest value in float16: {largest:.3g} of {HALF_MAX:g}, {name}'
    if not largest <= HALF_MAX:
        text += '\nwarning: float16 overflows there, what follows is wrong: export in float32'
    return text
