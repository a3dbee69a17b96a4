# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""An ONNX graph that is easy to rewrite."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper, shape_inference

# Constants of more elements take part in shape inference by their shape alone: it copies the graph.
MAX_INFERENCE_SIZE = 1024


@dataclass(eq=False)
class Node:
    """One operator; messages of protobuf are a hundred times as slow.

    Attributes:
        op_type (str): Operator.
        inputs (list[str]): Names of values; '' where an optional one is missing.
        outputs (list[str]): Names of values.
        attributes (dict): Attributes by name.
        name (str): Where it comes from.
        domain (str): '' for standard operators.
        mark (bool): A Cast that stands for the model's wish for single precision.
    """

    op_type: str
    inputs: List[str]
    outputs: List[str]
    attributes: Dict[str, Any] = field(default_factory=dict)
    name: str = ''
    domain: str = ''
    mark: bool = False

    def become(self, op_type: str, inputs: List[str], **attributes) -> None:
        """Compute the same outputs in another way."""
        self.op_type, self.inputs, self.attributes = op_type, list(inputs), attributes


class Graph:
    """Nodes in topological order and constants, of which a model is made again at the end.

    Args:
        model (ModelProto): The model; it is not changed.

    Attributes:
        nodes (list[Node]): All nodes but constants, in topological order.
        constants (dict[str, ndarray]): Weights and other constants by name.
        inputs (list[ValueInfoProto]): Inputs of the graph, without constants.
        outputs (list[ValueInfoProto]): Outputs of the graph.
        opset (int): Version of the standard operators.
        shapes (dict[str, tuple]): After :meth:`infer`, shape of every value it could infer; a
            dimension is a number, or a name, or None.
        types (dict[str, int]): After :meth:`infer`, element type of every value.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain in ('', 'ai.onnx'))
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == 'Constant':
                self.constants[node.output[0]] = _value_of(attributes)
                continue
            assert not any(isinstance(v, GraphProto) for v in attributes.values()), node.name
            inputs, outputs = list(node.input), list(node.output)
            self.nodes.append(
                Node(node.op_type, inputs, outputs, attributes, node.name, node.domain)
            )
        self.inputs = [i for i in graph.input if i.name not in self.constants]
        self.outputs = list(graph.output)
        self.shapes, self.types = {}, {}
        self._names = 0

    def to_model(self, constants_as_inputs: bool = False) -> onnx.ModelProto:
        """The graph as a model; its large constants are inputs on demand."""
        inputs, tensors = list(self.inputs), []
        for name, array in self.constants.items():
            if constants_as_inputs and array.size > MAX_INFERENCE_SIZE:
                element = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, element, array.shape))
            else:
                tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
                if not array.shape:  # ascontiguousarray makes scalars one-dimensional
                    del tensors[-1].dims[:]
        nodes = [
            helper.make_node(
                n.op_type, n.inputs, n.outputs, n.name, domain=n.domain, **n.attributes
            )
            for n in self.nodes
        ]
        graph = helper.make_graph(nodes, 'deim_mmdet', inputs, self.outputs, tensors)
        opset = helper.make_opsetid('', self.opset)
        # the oldest format that has this opset: readers refuse newer ones than they know
        version = helper.find_min_ir_version_for([opset])
        return helper.make_model(graph, opset_imports=[opset], ir_version=version)

    def infer(self) -> None:
        """Fill ``shapes`` and ``types``."""
        model = self.to_model(constants_as_inputs=True)
        for output in model.graph.output:  # what is said there may know less
            output.type.tensor_type.ClearField('shape')
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        self.shapes, self.types = {}, {}
        for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            tensor = info.type.tensor_type
            self.types[info.name] = tensor.elem_type
            if tensor.HasField('shape'):
                self.shapes[info.name] = tuple(_dimension(d) for d in tensor.shape.dim)

    def shape(self, name: str) -> Optional[tuple]:
        """Shape of a value or constant, as far as :meth:`infer` found it; rewriting keeps it."""
        if name in self.constants:
            return self.constants[name].shape
        return self.shapes.get(name)

    def type(self, name: str) -> Optional[int]:
        """Element type of a value or constant."""
        if name in self.constants:
            return helper.np_dtype_to_tensor_dtype(self.constants[name].dtype)
        return self.types.get(name)

    def producers(self) -> Dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> Dict[str, List[Node]]:
        """Nodes that read a value; None among them stands for an output of the graph."""
        found = defaultdict(list)
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    found[name].append(node)
        for output in self.outputs:
            found[output.name].append(None)
        return found

    def rename(self, names: Dict[str, str]) -> None:
        """Let readers of values read others instead, given as {old: new}.

        An output of the graph keeps its name: who made ``new`` makes it under the old name then.
        """
        if not names:
            return

        def last(name):
            while name in names:
                name = names[name]
            return name

        kept = {}
        for output in self.outputs:
            new = last(output.name)
            if new != output.name:
                kept[new] = output.name
        for node in self.nodes:
            for values in (node.inputs, node.outputs):
                for i, name in enumerate(values):
                    name = last(name) if values is node.inputs or name not in names else name
                    values[i] = kept.get(name, name)

    def remove(self, nodes: List[Node]) -> None:
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def add_constant(self, value: np.ndarray, hint: str = 'constant') -> str:
        """Name of a new constant."""
        name = self.new_name(hint)
        self.constants[name] = np.asarray(value)
        return name

    def new_name(self, hint: str) -> str:
        self._names += 1
        return f'{hint}.{self._names}'


def is_known(shape: Tuple) -> bool:
    return shape is not None and all(isinstance(side, int) for side in shape)


def foreign_operators(model: onnx.ModelProto) -> Dict[str, int]:
    """Number of nodes of each operator outside the standard domain."""
    found = defaultdict(int)
    for node in model.graph.node:
        if node.domain not in ('', 'ai.onnx'):
            found[f'{node.domain}::{node.op_type}'] += 1
    return dict(found)


def describe_tensor(value: onnx.ValueInfoProto) -> str:
    """Name, type and shape of an input or output, as ``images: float32 (1, 3, 640, 640)``."""
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    sides = ', '.join(str(d.dim_param or d.dim_value) for d in tensor.shape.dim)
    return f'{value.name}: {dtype.name} ({sides})'


def _value_of(constant: Dict[str, Any]) -> np.ndarray:
    ((name, value),) = constant.items()
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value, np.float32 if name.startswith('value_float') else np.int64)


def _dimension(dim):
    if dim.HasField('dim_value'):
        return dim.dim_value
    return dim.dim_param or None
