# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""On a machine with an NVIDIA GPU: engines find there what PyTorch and ONNX Runtime find."""

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import (
    Detector,
    ExportOptions,
    compare_with_pytorch,
    describe,
    export_onnx,
    open_runner,
    tensorrt_api,
)
from deim_mmdet.deploy.cuda import open_gpu
from deim_mmdet.deploy.parity import compare
from tests.test_deploy.models import ATTO, config_of, detector_of, images, photograph

try:
    GPU, FLAVOURS = open_gpu(), [trt.flavour for trt in tensorrt_api.installed()]
except (ImportError, ValueError) as error:
    pytest.skip(str(error), allow_module_level=True)
if not FLAVOURS:
    pytest.skip('no TensorRT is installed', allow_module_level=True)


# fmt: off
CASES = {
    # float16: detector, config, height and width, limits in pixels and of scores
    False: (ATTO, ATTO, (192, 192), (0.1, 1e-4)),
    # whose scores are not as equal that float16 decides about their order
    True: ('deim_hgnetv2_n', 'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco', (320, 320), (1, 1e-2)),
}
# fmt: on


@pytest.mark.parametrize('cuda_graphs', [True, False])
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('flavour', FLAVOURS)
def test_same_detections(flavour, half, cuda_graphs, tmp_path):
    if flavour == 'tensorrt_rtx' and not half and GPU.capability == '7.5':
        pytest.skip('TensorRT-RTX has no float32 products on Turing')
    name, config, hw, limits = CASES[half]
    detector, config, path = detector_of(name), config_of(config), tmp_path / 'm.onnx'
    for out, of_half in ((path, half), (tmp_path / 'float.onnx', False)):
        options = ExportOptions(hw, batch_size=None, dynamic_size=True, half=of_half)
        export_onnx(detector, out, options, describe(detector, config, options))
    reference = open_runner(tmp_path / 'float.onnx', 'onnxruntime')
    higher = (hw[0] + 64, hw[1])
    for _ in range(2):  # built, and from the cache
        settings = dict(flavour=flavour, engine_cache=tmp_path, cuda_graphs=cuda_graphs)
        exported = Detector(path, backend='tensorrt', **settings)
        difference = compare_with_pytorch(detector, exported, [photograph()])
        assert difference.within(*limits), str(difference)
        runner = exported.runner
        for count, size in ((1, hw), (3, hw), (2, higher), (1, hw)):
            feeds = dict(images=images(size, count))
            found = runner.run(feeds)
            expected = reference.run(feeds)
            assert [v.dtype for v in found] == [np.float32, np.float32, np.int64]
            if half and size == higher:  # where float16 chooses another query, on the CPU, too
                assert all(np.isfinite(value).all() for value in found)
                continue
            for i in range(count):
                difference = compare([v[i] for v in expected], [v[i] for v in found])
                assert difference.within(*limits), str(difference)
            for value, again in zip(found, runner.run(feeds)):
                np.testing.assert_array_equal(value, again)
    assert all(0 < time < 1000 for time in runner.gpu_times(feeds, 10))
    assert len(list(tmp_path.glob('*.engine'))) == 1
