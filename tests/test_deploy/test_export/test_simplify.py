# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Each pass on the smallest graph it is for: fewer nodes, the same values."""

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from deim_mmdet.deploy.export.graph import Graph  # noqa: E402
from deim_mmdet.deploy.export.simplify import simplify  # noqa: E402


def graph_of(nodes, constants=None, shape=('batch', 6, 4), outputs=('y',), out_type=None):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    out_type = out_type or TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(kind, *rest[:2], **(rest[2] if rest[2:] else {}))
                for kind, *rest in nodes
            ],
            'test',
            [helper.make_tensor_value_info('x', TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, out_type, None) for name in outputs],
            tensors,
        ),
        opset_imports=[helper.make_opsetid('', 17)],
        ir_version=8,
    )
    return onnx.shape_inference.infer_shapes(model)  # of the outputs


def run(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, dict(x=x))


def check(model, expected, shape=(2, 6, 4)):
    """Simplify; the operators that are left are the expected ones and compute the same."""
    graph = Graph(model)
    simplify(graph)
    simple = graph.to_model()
    onnx.checker.check_model(simple, full_check=True)
    assert sorted(node.op_type for node in simple.graph.node) == sorted(expected)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for before, after in zip(run(model, x), run(simple, x)):
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


# name: nodes as (operator, inputs, outputs, attributes), constants, what is left
CASES = {
    'constants are computed': (
        [('Add', ['a', 'b'], ['c']), ('Mul', ['x', 'c'], ['y'])],
        dict(a=np.float32(1), b=np.float32(2)),
        ['Mul'],
    ),
    'known sizes are constants, and an unknown batch is -1': (
        [
            ('Shape', ['x'], ['s']),
            ('Gather', ['s', 'zero'], ['n']),
            ('Unsqueeze', ['n', 'axes'], ['batch']),
            ('Concat', ['batch', 'rest'], ['target'], dict(axis=0)),
            ('Reshape', ['x', 'target'], ['y']),
        ],
        dict(zero=np.int64(0), axes=np.array([0]), rest=np.array([24])),
        ['Reshape'],
    ),
    'sizes that became a Reshape are still known': (
        [
            ('Shape', ['x'], ['s']),
            ('Gather', ['s', 'zero'], ['n']),
            ('Mul', ['n', 'heads'], ['groups']),
            ('Reshape', ['groups', 'one'], ['first']),
            ('Concat', ['first', 'rest'], ['target'], dict(axis=0)),
            ('Reshape', ['x', 'target'], ['y']),
        ],
        dict(zero=np.int64(0), heads=np.int64(2), one=np.array([1]), rest=np.array([12])),
        ['Reshape'],
    ),
    'no-ops go': (
        [
            ('Identity', ['x'], ['a']),
            ('Mul', ['a', 'one'], ['b']),
            ('Cast', ['b'], ['c'], dict(to=TensorProto.FLOAT)),
            ('Transpose', ['c'], ['d'], dict(perm=[0, 1, 2])),
            ('Relu', ['d'], ['y']),
        ],
        dict(one=np.float32(1)),
        ['Relu'],
    ),
    'a neutral operand that broadcasts stays': (
        [('Add', ['x', 'zeros'], ['y'])],
        dict(zeros=np.zeros((3, 1, 1, 1), np.float32)),
        ['Add'],
    ),
    'a graph that does nothing keeps one node': ([('Identity', ['x'], ['y'])], {}, ['Identity']),
    'transposes merge': (
        [
            ('Transpose', ['x'], ['a'], dict(perm=[1, 2, 0])),
            ('Transpose', ['a'], ['b'], dict(perm=[2, 1, 0])),
            ('Relu', ['b'], ['y']),
        ],
        {},
        ['Transpose', 'Relu'],
    ),
    'reshapes merge': (
        [
            ('Unsqueeze', ['x', 'axes'], ['a']),
            ('Reshape', ['a', 'target'], ['y']),
        ],
        dict(axes=np.array([1]), target=np.array([-1, 24])),
        ['Reshape'],
    ),
    'a reshape that copies a side is kept with what it copies from': (
        [
            ('Reshape', ['x', 'first'], ['a']),
            ('Reshape', ['a', 'second'], ['y']),
        ],
        dict(first=np.array([-1, 3, 8]), second=np.array([0, 0, 2, 4])),
        ['Reshape', 'Reshape'],
    ),
    'equal nodes are computed once': (
        [
            ('Sigmoid', ['x'], ['a']),
            ('Sigmoid', ['x'], ['b']),
            ('Mul', ['a', 'b'], ['y']),
        ],
        {},
        ['Sigmoid', 'Mul'],
    ),
    'slices become a split': (
        [
            ('Slice', ['x', 'zero', 'two', 'axis'], ['a']),
            ('Slice', ['x', 'two', 'end', 'axis'], ['b']),
            ('Mul', ['a', 'b'], ['y']),
        ],
        dict(zero=np.array([0]), two=np.array([2]), end=np.array([2**62]), axis=np.array([-1])),
        ['Split', 'Mul'],
    ),
    'slices that leave something out stay': (
        [
            ('Slice', ['x', 'zero', 'one', 'axis'], ['a']),
            ('Slice', ['x', 'two', 'three', 'axis'], ['b']),
            ('Mul', ['a', 'b'], ['y']),
        ],
        dict(
            zero=np.array([0]),
            one=np.array([1]),
            two=np.array([2]),
            three=np.array([3]),
            axis=np.array([2]),
        ),
        ['Slice', 'Slice', 'Mul'],
    ),
    'a reversing slice is no no-op': (
        [('Slice', ['x', 'start', 'end', 'axis', 'step'], ['y'])],
        dict(
            start=np.array([-1]), end=np.array([-(2**62)]), axis=np.array([1]), step=np.array([-1])
        ),
        ['Slice'],
    ),
    'a split of what was joined gives the parts': (
        [
            ('Relu', ['x'], ['a']),
            ('Sigmoid', ['x'], ['b']),
            ('Concat', ['a', 'b'], ['c'], dict(axis=1)),
            ('Split', ['c', 'sizes'], ['d', 'e'], dict(axis=1)),
            ('Sub', ['d', 'e'], ['y']),
        ],
        dict(sizes=np.array([6, 6])),
        ['Relu', 'Sigmoid', 'Sub'],
    ),
    'rows are gathered by an index that is not written out': (
        [
            ('TopK', ['first', 'k'], ['values', 'index'], dict(axis=1)),
            ('Unsqueeze', ['index', 'last'], ['column']),
            ('Expand', ['column', 'dims'], ['full']),
            ('GatherElements', ['x', 'full'], ['y'], dict(axis=1)),
        ],
        dict(k=np.array([3]), last=np.array([2]), dims=np.array([1, 1, 4])),
        ['ReduceMax', 'TopK', 'Reshape', 'GatherND'],
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_pass(name):
    nodes, constants, expected = CASES[name]
    if expected[0] == 'ReduceMax':
        nodes = [('ReduceMax', ['x'], ['first'], dict(axes=[2], keepdims=0)), *nodes]
    check(graph_of(nodes, constants), expected)


def test_constants_of_a_graph_are_outputs():
    """What is constant from end to end is still an output."""
    nodes = [('Shape', ['x'], ['s']), ('Cast', ['s'], ['y'], dict(to=TensorProto.FLOAT))]
    graph = Graph(graph_of(nodes, shape=(2, 6, 4)))
    simplify(graph)
    (value,) = run(graph.to_model(), np.zeros((2, 6, 4), np.float32))
    np.testing.assert_array_equal(value, [2, 6, 4])
