# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import onnx
from onnx import TensorProto, helper, numpy_helper

from deim_mmdet.deploy.export.half_range import largest_half_values

X = np.float32([[1, -300], [2, 100]])


def product(element: int) -> onnx.ModelProto:
    """``y = x * 300``, computed in a type."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    nodes = [
        helper.make_node('Cast', ['x'], ['a'], to=element),
        helper.make_node('Mul', ['a', 'b'], ['c']),
        helper.make_node('Cast', ['c'], ['y'], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in 'xy']
    factor = numpy_helper.from_array(np.array(300, dtype), 'b')
    graph = helper.make_graph(nodes, 'test', values[:1], values[1:], [factor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)


def test_largest_first():
    found = largest_half_values(product(TensorProto.FLOAT16), dict(x=X / 10))
    assert [name for _, name in found] == ['c', 'a']
    np.testing.assert_allclose([value for value, _ in found], [9000, 30])


def test_beyond_the_largest_number():
    (value, name), *_ = largest_half_values(product(TensorProto.FLOAT16), dict(x=X))
    assert name == 'c' and value > np.finfo(np.float16).max


def test_single_precision_has_none():
    assert largest_half_values(product(TensorProto.FLOAT), dict(x=X)) == []
