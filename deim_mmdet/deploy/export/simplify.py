# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Makes a traced graph small: what is constant is computed, what does nothing is left out.

Everything here keeps the values that the graph computes.

Why not a library: of the traced graph of DEIM-D-FINE-N (946 nodes; 1,006 for any batch; 1,214 for
any size) onnxslim 0.1.98 leaves 612, 642 and 843 nodes and onnxsim 0.8.1 565, 665 and 931, this
module 568, 568 and 837. And both take the marks, from which :mod:`.half` types the graph, for Casts
that do nothing; as operators of an own domain they hide the shapes behind them.
"""

import math
from typing import Callable, Dict, List, Optional

import numpy as np
import onnx
from onnx import helper

from ..runners.onnxruntime_runner import open_session
from .graph import Graph, Node, is_known

# Rounds of passes: each opens the way for others; the models here need three or four.
MAX_ROUNDS = 12


def simplify(graph: Graph) -> None:
    """Run all passes until none of them finds anything any more."""
    _repeat(graph)
    prefer_unknown_sides(graph)
    _repeat(graph)


def _repeat(graph: Graph) -> None:
    for _ in range(MAX_ROUNDS):
        before = [(node.op_type, *node.inputs) for node in graph.nodes]
        graph.infer()
        for run in PASSES:
            run(graph)
        if [(node.op_type, *node.inputs) for node in graph.nodes] == before:
            return


# ---- constants ------------------------------------------------------------------------------


def fold_known_sizes(graph: Graph) -> None:
    """Sizes that are known when the graph is made become constants, one by one.

    A shape with one unknown side, such as the batch, is constant for a Reshape, too.
    """
    known = {}  # small integer tensors as arrays of numbers, names of sizes and None
    names = {}
    for node in graph.nodes:
        value = _sizes(node, graph, known)
        if value is None:
            continue
        known[node.outputs[0]] = value
        if all(isinstance(side, int) for side in value.flat):
            dtype = helper.tensor_dtype_to_np_dtype(graph.type(node.outputs[0]))
            # under another name: the node, which makes the old one, goes as unused
            names[node.outputs[0]] = graph.add_constant(value.astype(dtype), 'size')
    graph.rename(names)
    known.update((n, v) for n, v in graph.constants.items() if v.size == 0)
    for node in graph.nodes:
        if node.op_type == 'Reshape' and node.inputs[1] not in graph.constants:
            target = known.get(node.inputs[1])
            sides = None if target is None else _target(target, graph.shape(node.inputs[0]))
            if sides is not None:
                node.inputs[1] = graph.add_constant(np.array(sides), 'sides')
        if node.op_type == 'Concat':  # shape inference stumbles over empty parts
            parts = [n for n in node.inputs if n not in known or known[n].size]
            if len(parts) < len(node.inputs):
                node.inputs = parts
    remove_unused(graph)


def _target(target: np.ndarray, before: Optional[tuple]) -> Optional[list]:
    """Constant shape for a Reshape, where one is enough; ``before`` is that of its input."""
    sides = list(target.flat)
    if 0 in sides or not sides:
        return None
    names = [side for side in sides if isinstance(side, str)]
    rest = [side for side in before or () if not isinstance(side, int)]
    if len(names) == 1 and rest == names and None not in sides:
        # both shapes hold this side, so the others hold the same number of elements
        total = math.prod(side for side in before if isinstance(side, int))
        others = math.prod(side for side in sides if isinstance(side, int) and side != -1)
        sides = [total // others if side == -1 else side for side in sides]
        # 0 copies the side of the same place, and with it its name
        place = sides.index(names[0])
        sides[place] = 0 if before.index(names[0]) == place else -1
        return sides
    sides = [side if isinstance(side, int) else -1 for side in sides]
    return sides if sides.count(-1) == 1 else None


def prefer_unknown_sides(graph: Graph) -> None:
    """A Reshape that copies one side says -1 there, which does not depend on its input's shape."""
    for node in graph.nodes:
        target = graph.constants.get(node.inputs[1]) if node.op_type == 'Reshape' else None
        if target is not None and (target < 1).sum() == 1 and 0 in target:
            if not node.attributes.get('allowzero'):
                node.inputs[1] = graph.add_constant(np.where(target == 0, -1, target), 'sides')
    remove_unused(graph)


def _sizes(node: Node, graph: Graph, known: Dict[str, np.ndarray]) -> Optional[np.ndarray]:
    """Value of a node that computes with sizes, as far as it is known."""
    if node.op_type == 'Shape' and not node.attributes:
        shape = graph.shape(node.inputs[0])
        if shape is None:
            return None
        return np.array(shape, object)
    if node.op_type not in _SIZE_OPERATORS:
        return None
    values = []
    for name in node.inputs:
        value = known.get(name)
        if value is None and name in graph.constants:
            value = graph.constants[name]
            if value.dtype.kind not in 'iu' or value.size > 64:
                return None
            value = value.astype(object)
        values.append(value)
    if not values or any(value is None for value in values):
        return None
    value = _SIZE_OPERATORS[node.op_type](node, *values)
    # a size that is not known is None, too
    return None if value is NotImplemented else np.asarray(value, object)


def _gather(node, data, index):
    return np.take(data, index.astype(np.int64), axis=node.attributes.get('axis', 0))


def _slice(node, data, starts, ends, axes=None, steps=None):
    if data.ndim != 1 or len(starts) != 1 or not _both_int(starts[0], ends[0]):
        return NotImplemented
    return data[int(starts[0]) : int(ends[0]) : 1 if steps is None else int(steps[0])]


def _unsqueeze(node, data, axes):
    return np.expand_dims(data, tuple(int(axis) for axis in axes))


def _squeeze(node, data, axes=None):
    return np.squeeze(data, None if axes is None else tuple(int(axis) for axis in axes))


def _reshape(node, data, target):
    # merge_reshapes makes them of what is above
    if not data.size:
        return NotImplemented
    return data.reshape(tuple(int(side) for side in target))


def _concat(node, *parts):
    return np.concatenate(parts, axis=node.attributes.get('axis'))


def _arithmetic(function: Callable) -> Callable:
    # an object array calls the function for each pair
    each = np.frompyfunc(lambda a, b: function(a, b) if _both_int(a, b) else None, 2, 1)
    return lambda node, a, b: each(a, b)


def _both_int(a, b) -> bool:
    return isinstance(a, int) and isinstance(b, int)


_SIZE_OPERATORS = {
    'Gather': _gather,
    'Slice': _slice,
    'Unsqueeze': _unsqueeze,
    'Squeeze': _squeeze,
    'Reshape': _reshape,
    'Concat': _concat,
    'Identity': lambda node, data: data,
    'Cast': lambda node, data: data if node.attributes.get('to') in _INTEGERS else NotImplemented,
    'Add': _arithmetic(lambda a, b: a + b),
    'Sub': _arithmetic(lambda a, b: a - b),
    'Mul': _arithmetic(lambda a, b: a * b),
    'Div': _arithmetic(lambda a, b: int(a / b) if b else None),  # towards zero, as in ONNX
}
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def fold_constants(graph: Graph) -> None:
    """Compute every node that has only constants, all of them in one run of ONNX Runtime."""
    foldable, folded = [], set(graph.constants)
    for node in graph.nodes:
        if node.op_type not in _RANDOM and all(not n or n in folded for n in node.inputs):
            foldable.append(node)
            folded.update(node.outputs)
    if not foldable:
        return
    inside = {id(node) for node in foldable}
    needed = {output.name for output in graph.outputs}
    needed.update(n for node in graph.nodes if id(node) not in inside for n in node.inputs)
    wanted = [name for node in foldable for name in node.outputs if name and name in needed]

    part = Graph.__new__(Graph)
    read = {name for node in foldable for name in node.inputs}
    part.nodes, part.inputs, part.opset = foldable, [], graph.opset
    part.constants = {name: graph.constants[name] for name in read if name in graph.constants}
    part.outputs = [helper.make_tensor_value_info(n, graph.type(n), None) for n in wanted]
    if wanted:
        values = _run(part.to_model(), wanted)
        graph.constants.update(zip(wanted, values))
    graph.remove(foldable)
    remove_unused(graph)


_RANDOM = ('RandomNormal', 'RandomUniform', 'RandomNormalLike', 'RandomUniformLike', 'Bernoulli')


def _run(model: onnx.ModelProto, outputs: List[str]) -> List[np.ndarray]:
    return open_session(model.SerializeToString(), optimized=False).run(outputs, {})


# ---- operators that do nothing ------------------------------------------------------------------


def remove_no_ops(graph: Graph) -> None:
    """Leave out nodes whose output is their input."""
    outputs = {output.name for output in graph.outputs}
    inputs = {value.name for value in graph.inputs} | set(graph.constants)
    names, gone = {}, []
    for node in graph.nodes:
        name = node.inputs[0] if node.inputs else ''
        # an input or constant of the graph cannot take the name of an output
        if node.outputs[0] in outputs and names.get(name, name) in inputs:
            continue
        if _does_nothing(node, graph):
            names[node.outputs[0]] = name
            gone.append(node)
    graph.remove(gone)
    graph.rename(names)


def _does_nothing(node: Node, graph: Graph) -> bool:
    kind, source = node.op_type, node.inputs[0] if node.inputs else ''
    before, after = graph.shape(source), graph.shape(node.outputs[0])
    if kind in ('Identity', 'Dropout'):
        return True
    if kind == 'Concat':
        return len(node.inputs) == 1
    if kind == 'Cast':
        return not node.mark and graph.type(source) == node.attributes.get('to')
    if kind == 'Transpose':
        order = node.attributes.get('perm')
        return order is not None and list(order) == sorted(order)
    if kind == 'Reshape':
        # with one side unknown the other sides decide
        return _sides(before) is not None and _sides(before) == _sides(after)
    if kind in ('Expand', 'Slice', 'Tile', 'Pad'):
        return is_known(before) and before == after and not _reverses(node, graph)
    if kind in ('Mul', 'Div', 'Add', 'Sub'):
        constant = graph.constants.get(node.inputs[1])
        neutral = 1 if kind in ('Mul', 'Div') else 0
        # an operand may also broadcast the other
        return constant is not None and before == after is not None and (constant == neutral).all()
    return False


def _reverses(node: Node, graph: Graph) -> bool:
    if node.op_type != 'Slice' or len(node.inputs) < 5:
        return False
    steps = graph.constants.get(node.inputs[4])
    return steps is None or bool((steps < 0).any())


def _sides(shape) -> Optional[tuple]:
    """A shape with at most one unknown side, for comparison; else None."""
    if shape is None:
        return None
    sides = tuple(side if isinstance(side, int) else -1 for side in shape)
    return sides if sides.count(-1) <= 1 else None


def merge_reshapes(graph: Graph) -> None:
    """Unsqueeze, Squeeze and Flatten are Reshapes, and of two in a row the second is enough."""
    for node in graph.nodes:
        sides = _sides(graph.shape(node.outputs[0]))
        if node.op_type in ('Unsqueeze', 'Squeeze', 'Flatten') and sides and 0 not in sides:
            node.become('Reshape', [node.inputs[0], graph.add_constant(np.array(sides), 'sides')])
    producers = graph.producers()
    for node in graph.nodes:
        first = producers.get(node.inputs[0]) if node.op_type == 'Reshape' else None
        target = graph.constants.get(node.inputs[1]) if first is not None else None
        # a side of 0 is copied from the input
        if first is not None and first.op_type == 'Reshape' and target is not None:
            if 0 not in target:
                node.inputs[0] = first.inputs[0]
    remove_unused(graph)


def merge_transposes(graph: Graph) -> None:
    """Of two in a row one is enough."""
    producers = graph.producers()
    for node in graph.nodes:
        first = producers.get(node.inputs[0]) if node.op_type == 'Transpose' else None
        if first is not None and first.op_type == 'Transpose':
            before, after = first.attributes.get('perm'), node.attributes.get('perm')
            if before is None or after is None:
                continue
            perm = [before[axis] for axis in after]
            node.become('Transpose', [first.inputs[0]], perm=perm)
    remove_unused(graph)


# ---- fewer and cheaper operators -----------------------------------------------------------------


def merge_equal_nodes(graph: Graph) -> None:
    """Compute the same thing once, and keep equal small constants once."""
    seen, names = {}, {}
    for name, value in graph.constants.items():
        if value.size > 64:
            continue
        key = (value.dtype.str, value.shape, value.tobytes())
        if seen.setdefault(key, name) != name:
            names[name] = seen[key]
    graph.rename(names)
    outputs = {output.name for output in graph.outputs}
    seen, names, gone = {}, {}, []
    for node in graph.nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        attributes = tuple(sorted((k, str(v)) for k, v in node.attributes.items()))
        key = (node.domain, node.op_type, inputs, attributes, len(node.outputs), node.mark)
        if node.op_type in _RANDOM or outputs.intersection(node.outputs):
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            names.update(zip(node.outputs, first.outputs))
            gone.append(node)
    graph.remove(gone)
    graph.rename(names)
    remove_unused(graph)


def slices_to_splits(graph: Graph) -> None:
    """Slices that cut a value into parts become one Split."""
    groups = {}
    for node in graph.nodes:
        cut = _cut(node, graph)
        if cut is not None:
            axis, start, end = cut
            groups.setdefault((node.inputs[0], axis), {})[start, end] = node
    outputs = {output.name for output in graph.outputs}
    for (source, axis), parts in groups.items():
        cuts = sorted(parts)
        size = graph.shape(source)[axis]
        joined = [end for _, end in cuts[:-1]] == [start for start, _ in cuts[1:]]
        covers = len(cuts) > 1 and joined and cuts[0][0] == 0 and cuts[-1][1] == size
        if not covers or outputs.intersection(node.outputs[0] for node in parts.values()):
            continue
        nodes = [parts[cut] for cut in cuts]
        sizes = graph.add_constant(np.array([end - start for start, end in cuts]), 'sizes')
        names = [node.outputs[0] for node in nodes]
        split = Node('Split', [source, sizes], names, dict(axis=axis), nodes[0].name)
        first = min(next(i for i, n in enumerate(graph.nodes) if n is node) for node in nodes)
        graph.nodes.insert(first, split)
        graph.remove(nodes)


def _cut(node: Node, graph: Graph):
    """(axis, start, end) of a slice along one axis of known size, in steps of 1; else None."""
    shape = graph.shape(node.inputs[0]) if node.op_type == 'Slice' else None
    if shape is None or len(node.inputs) < 4:
        return None
    parameters = [graph.constants.get(name) for name in node.inputs[1:]]
    if any(value is None or value.size != 1 for value in parameters):
        return None
    start, end, axis = (int(value.item()) for value in parameters[:3])
    if len(parameters) > 3 and parameters[3].item() != 1:
        return None
    axis %= len(shape)
    if not isinstance(shape[axis], int):
        return None
    start, end, _ = slice(start, end).indices(shape[axis])
    return axis, start, end


def cancel_splits(graph: Graph) -> None:
    """A Split of a Concat into the same parts gives those parts."""
    producers = graph.producers()
    outputs = {output.name for output in graph.outputs}
    names, gone = {}, []
    for node in graph.nodes:
        concat = producers.get(node.inputs[0]) if node.op_type == 'Split' else None
        if concat is None or concat.op_type != 'Concat' or outputs.intersection(node.outputs):
            continue
        rank = len(graph.shape(concat.outputs[0]) or ())
        axes = {concat.attributes.get('axis'), node.attributes.get('axis', 0)}
        if not rank or len({axis % rank for axis in axes}) > 1 or len(node.inputs) < 2:
            continue
        axis = axes.pop() % rank
        sizes = graph.constants.get(node.inputs[1])
        parts = [(graph.shape(name) or (None,) * rank)[axis] for name in concat.inputs]
        if sizes is not None and parts == sizes.tolist():
            names.update(zip(node.outputs, concat.inputs))
            gone.append(node)
    graph.remove(gone)
    graph.rename(names)
    remove_unused(graph)


def gather_rows(graph: Graph) -> None:
    """GatherElements with an index that is the same along the last axis becomes GatherND.

    The index is not written out for every channel, and its size need not be known.
    """
    producers = graph.producers()
    for node in graph.nodes:
        if node.op_type != 'GatherElements' or node.attributes.get('axis', 0) != 1:
            continue
        expand = producers.get(node.inputs[1])
        shape = graph.shape(node.inputs[0])
        if expand is None or expand.op_type not in ('Expand', 'Tile') or len(shape or ()) != 3:
            continue
        index = graph.shape(expand.inputs[0])
        if index is None or len(index) != 3 or index[2] != 1 or not _keeps_rows(expand, graph):
            continue
        node.become('GatherND', [node.inputs[0], expand.inputs[0]], batch_dims=1)
    remove_unused(graph)


def _keeps_rows(expand: Node, graph: Graph) -> bool:
    """Whether an index (bs, N, 1) grows along its last axis alone.

    A trace cannot tell for certain with an unknown batch; the index of a batch has its size.
    """
    before, after = graph.shape(expand.inputs[0]), graph.shape(expand.outputs[0])
    if after is None:
        return True
    return all(a == b or not isinstance(b, int) for a, b in zip(before[:2], after[:2]))


def remove_unused(graph: Graph) -> None:
    """Leave out nodes and constants that no output depends on."""
    needed = {output.name for output in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.constants = {name: v for name, v in graph.constants.items() if name in needed}


PASSES = (
    remove_no_ops,
    fold_known_sizes,
    fold_constants,
    gather_rows,
    merge_reshapes,
    merge_transposes,
    merge_equal_nodes,
    slices_to_splits,
    cancel_splits,
)
