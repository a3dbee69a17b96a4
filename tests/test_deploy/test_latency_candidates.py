# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import Detector, ExportOptions
from deim_mmdet.deploy.latency import Protocol
from deim_mmdet.deploy.latency_candidates import (
    DetectorOf,
    bound_run,
    candidate,
    exported_candidate,
    sample_images,
)
from deim_mmdet.deploy.runners import open_runner
from tests.test_deploy.models import ATTO, config_of, detector_of, export, images

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
