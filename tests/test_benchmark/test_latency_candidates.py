# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.benchmark.latency import Protocol  # noqa: E402
from deim_mmdet.benchmark.latency_candidates import (  # noqa: E402
    DetectorOf,
    bound_run,
    candidate,
    exported_candidate,
    foreign_candidate,
    is_foreign,
    sample_images,
)
from deim_mmdet.deploy import Detector, ExportOptions  # noqa: E402
from deim_mmdet.deploy.runners import open_runner  # noqa: E402
from tests.test_deploy.models import ATTO, config_of, detector_of, export, images  # noqa: E402

PROTOCOL = Protocol(hw=(192, 192), image_hw=(100, 120))


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp('exported') / 'atto.onnx'
    export(detector_of(ATTO), config_of(ATTO), path, ExportOptions(hw=(192, 192)))
    return path


def test_end_to_end_is_what_users_call(graph):
    image = sample_images(PROTOCOL)[0]
    assert image.shape == (100, 120, 3) and image.dtype == np.uint8
    expected, actual = Detector(graph)(image), DetectorOf(open_runner(graph))(image)
    assert len(expected.scores) > 0
    for wanted, found in zip(expected, actual):
        np.testing.assert_array_equal(found, wanted)


def test_stages(graph):
    found = exported_candidate('mine', graph, 'onnxruntime', PROTOCOL)
    assert (found.name, found.precision, found.device) == ('mine', 'float32', 'cpu')
    assert list(found.timers) == ['network', 'detections', 'end to end']
    assert not found.device_stages
    assert all(len(timer(2)) == 2 for timer in found.timers.values())


def test_openvino_computes_in_float32(tmp_path):
    """Whatever the weights of a graph are."""
    pytest.importorskip('openvino')
    path = tmp_path / 'half.onnx'
    export(detector_of(ATTO), config_of(ATTO), path, ExportOptions(hw=(192, 192), half=True))
    precisions = [
        exported_candidate(backend, path, backend, PROTOCOL).precision
        for backend in ('onnxruntime', 'openvino')
    ]
    assert precisions == ['float16', 'float32']


def test_what_is_no_onnx_cannot_be_cut(graph):
    found = candidate('mine', open_runner(graph), None, PROTOCOL)
    assert list(found.timers) == ['detections', 'end to end']


def test_gpus_have_clocks_of_their_own(graph):
    class OnGpu:
        """As TensorRT's runner: run() copies, gpu_times() does not."""

        device = 'cuda'

        def __init__(self):
            self.runner = open_runner(graph)
            self.metadata = self.runner.metadata
            self.run = self.runner.run

        def gpu_times(self, feeds, count):
            assert feeds['images'].shape == (1, 3, 192, 192)
            return [-1.0] * count

    found = candidate('mine', OnGpu(), OnGpu(), PROTOCOL)
    assert found.device_stages == {'network', 'detections'} and found.device == 'cuda'
    assert found.timers['network'](2) == found.timers['detections'](2) == [-1.0, -1.0]
    assert min(found.timers['end to end'](1)) > 0


def test_a_bound_run_copies_nothing_and_computes_the_same(graph):
    runner = open_runner(graph)
    feeds = dict(images=images((192, 192)))
    run = bound_run(runner.session, feeds, 'cpu')
    run()
    (binding,) = run.args
    for wanted, found in zip(runner.run(feeds), binding.copy_outputs_to_cpu()):
        np.testing.assert_array_equal(found, wanted)


def test_other_sizes_are_refused(graph):
    with pytest.raises(ValueError, match=r'mine takes images of \(192, 192\), .* has \(64, 64\)'):
        exported_candidate('mine', graph, 'onnxruntime', Protocol(hw=(64, 64)))
    with pytest.raises(ValueError, match='mine takes 1 images, the protocol has 2'):
        exported_candidate('mine', graph, 'onnxruntime', Protocol(hw=(192, 192), batch_size=2))


# ---- files of other exporters ----


def foreign(path, size=(192, 192), batch='N', labels='labels'):
    """A graph as the published exports have it: two inputs, labels first."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node('GlobalAveragePool', ['images'], ['means']),
            node('Flatten', ['means'], ['flat']),
            node('TopK', ['flat', 'count'], ['scores', labels], axis=1),
            node('Cast', ['orig_target_sizes'], ['sides'], to=1),
            node('Mul', ['flat', 'area'], ['boxes']),
            node('Add', ['sides', 'area'], ['corners']),
        ],
        'graph',
        [value('images', 1, [batch, 3, *size]), value('orig_target_sizes', 7, [batch, 2])],
        [value(name, 7 if name == labels else 1, None) for name in (labels, 'scores', 'corners')],
        [onnx.numpy_helper.from_array(np.array([2]), 'count'),
         onnx.numpy_helper.from_array(np.ones(1, np.float32), 'area')],
    )  # fmt: skip
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid('', 16)], ir_version=8
        ),
        path,
    )
    return path


def test_files_of_other_exporters(graph, tmp_path):
    path = foreign(tmp_path / 'theirs.onnx')
    assert is_foreign(path) and not is_foreign(graph)
    found = foreign_candidate('theirs', path, PROTOCOL)
    assert (found.precision, found.device) == ('float32', 'cpu')
    assert list(found.timers) == ['network', 'detections']
    assert all(len(timer(2)) == 2 for timer in found.timers.values())
    # where nothing is called labels, it is timed as a whole
    found = foreign_candidate('theirs', foreign(tmp_path / 'l.onnx', labels='kinds'), PROTOCOL)
    assert list(found.timers) == ['detections']


def test_bad_files_of_other_exporters(tmp_path):
    with pytest.raises(
        ValueError, match=r'theirs takes images of .*64, 64.*has \(1, 3, 192, 192\)'
    ):
        foreign_candidate('theirs', foreign(tmp_path / 'a.onnx', size=(64, 64)), PROTOCOL)
    with pytest.raises(ValueError, match=r'theirs takes images of \[2, 3.*has \(1, 3'):
        foreign_candidate('theirs', foreign(tmp_path / 'b.onnx', batch=2), PROTOCOL)
    (tmp_path / 'c.onnx').write_text('text')
    with pytest.raises(ValueError, match='c.onnx is no ONNX file'):
        is_foreign(tmp_path / 'c.onnx')
