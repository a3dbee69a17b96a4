# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""On a machine with an NVIDIA GPU: engines compute there what ONNX Runtime computes on the CPU."""

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import (
    ExportOptions,
    describe,
    export_onnx,
    open_runner,
    tensorrt_api,
)
from deim_mmdet.deploy.cuda import open_gpu
from deim_mmdet.deploy.parity import compare
from tests.test_deploy.models import ATTO, config_of, detector_of, images

try:
    GPU, FLAVOURS = open_gpu(), [trt.flavour for trt in tensorrt_api.installed()]
except (ImportError, ValueError) as error:
    pytest.skip(str(error), allow_module_level=True)
if not FLAVOURS:
    pytest.skip('no TensorRT is installed', allow_module_level=True)


@pytest.mark.parametrize('cuda_graphs', [True, False])
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('flavour', FLAVOURS)
def test_same_detections(flavour, half, cuda_graphs, tmp_path):
    if flavour == 'tensorrt_rtx' and not half and GPU.capability == '7.5':
        pytest.skip('TensorRT-RTX has no float32 products on Turing')
    options = ExportOptions((192, 192), batch_size=None, dynamic_size=True, half=half)
    detector, config, path = detector_of(ATTO), config_of(ATTO), tmp_path / 'm.onnx'
    export_onnx(detector, path, options, describe(detector, config, options))
    reference = open_runner(path, 'onnxruntime')
    for _ in range(2):  # built, and from the cache
        runner = open_runner(
            path, 'tensorrt', flavour=flavour, engine_cache=tmp_path, cuda_graphs=cuda_graphs
        )
        for count, hw in ((1, (192, 192)), (3, (192, 192)), (2, (256, 192)), (1, (192, 192))):
            feeds = dict(images=images(hw, count))
            found = runner.run(feeds)
            expected = reference.run(feeds)
            assert [v.dtype for v in found] == [np.float32, np.float32, np.int64]
            for i in range(count):
                if half:  # among the equal scores of random weights rounding decides
                    best = [values[1][i, :10] for values in (found, expected)]
                    np.testing.assert_allclose(*best, atol=2e-2)
                else:
                    difference = compare([v[i] for v in expected], [v[i] for v in found])
                    assert difference.within(0.1, 1e-4), str(difference)
            for value, again in zip(found, runner.run(feeds)):
                np.testing.assert_array_equal(value, again)
    assert all(0 < time < 1000 for time in runner.gpu_times(feeds, 10))
    assert len(list(tmp_path.glob('*.engine'))) == 1
