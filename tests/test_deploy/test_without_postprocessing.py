# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import ExportOptions  # noqa: E402
from deim_mmdet.deploy.without_postprocessing import without_postprocessing  # noqa: E402
from tests.test_deploy.models import (  # noqa: E402
    ATTO,
    YOLOV8,
    config_of,
    detector_of,
    export,
    images,
)


def session_of(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )


def test_selecting_from_the_rest_gives_the_whole(tmp_path):
    options = ExportOptions(hw=(192, 192), batch_size=None)
    model, session = export(detector_of(ATTO), config_of(ATTO), tmp_path / 'm.onnx', options)
    before = model.SerializeToString()
    cut = without_postprocessing(model)
    onnx.checker.check_model(cut, full_check=True)

    feeds = dict(images=images((192, 192), 2))
    all_scores, all_boxes = session_of(cut).run(None, feeds)
    assert all_scores.shape == (2, 100 * 10) and all_boxes.shape == (2, 100, 4)
    for found, scores, corners in zip(zip(*session.run(None, feeds)), all_scores, all_boxes):
        boxes, best, labels = found
        np.testing.assert_array_equal(best, np.sort(scores)[::-1][:100])
        index = np.argsort(-scores, kind='stable')[:100]
        np.testing.assert_array_equal(labels, index % 10)
        expected = (corners[index // 10] * 192).clip(0, 192)  # from shares to pixels
        np.testing.assert_allclose(boxes, expected, atol=1e-3)

    # the network's own selection of queries is no post-processing
    selections = {'TopK', 'ArgMax', 'NonMaxSuppression'}
    count = [sum(node.op_type in selections for node in m.graph.node) for m in (model, cut)]
    assert count[0] - count[1] == 1 and count[1] > 0
    assert model.SerializeToString() == before
    assert cut.metadata_props == model.metadata_props


def test_suppression_is_post_processing(tmp_path):
    """Candidates are selected once by score, and once more: both are left out."""
    options = ExportOptions(hw=(192, 192))
    model, _ = export(detector_of(YOLOV8), config_of(YOLOV8), tmp_path / 'm.onnx', options)
    cut = without_postprocessing(model)
    kinds = [{node.op_type for node in m.graph.node} for m in (model, cut)]
    assert {'TopK', 'NonMaxSuppression'} <= kinds[0]
    assert not {'TopK', 'NonMaxSuppression'} & kinds[1]
    cells = 24 * 24 + 12 * 12 + 6 * 6
    scores, boxes = session_of(cut).run(None, dict(images=images((192, 192))))
    assert scores.shape == (1, cells * 10) and boxes.shape == (1, cells, 4)


def graph(*nodes, outputs=('labels',), floats=('scores',)):
    value = onnx.helper.make_tensor_value_info
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            'graph',
            [value('images', 1, [2, 8])],
            [value(name, 1 if name in floats else 7, None) for name in outputs],
            [onnx.numpy_helper.from_array(np.array([3]), 'count')],
        ),
        opset_imports=[onnx.helper.make_opsetid('', 17)],
    )


def test_labels_by_the_best_class():
    """As detectors with softmax have it: nothing is sorted."""
    node = onnx.helper.make_node
    model = graph(
        node('Softmax', ['images'], ['probabilities']),
        node('ArgMax', ['probabilities'], ['labels'], axis=1),
        node('ReduceMax', ['probabilities'], ['scores'], axes=[1]),
        outputs=('labels', 'scores'),
    )
    cut = without_postprocessing(model)
    assert [node.op_type for node in cut.graph.node] == ['Softmax']
    assert [value.name for value in cut.graph.output] == ['probabilities']


def test_bad_graphs():
    node = onnx.helper.make_node
    top = node('TopK', ['images', 'count'], ['scores', 'index'])
    with pytest.raises(ValueError, match='no output named labels'):
        without_postprocessing(graph(top, outputs=('scores', 'index')))
    cast = node('Cast', ['images'], ['labels'], to=7)
    with pytest.raises(ValueError, match='the labels come from none of ArgMax, NonMax'):
        without_postprocessing(graph(cast))
