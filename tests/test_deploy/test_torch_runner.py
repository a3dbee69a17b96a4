# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import ExportOptions, describe
from deim_mmdet.deploy.parity import compare
from deim_mmdet.deploy.runners.torch_runner import TorchRunner, halve_weights
from tests.test_deploy.models import (
    ATTO,
    config_of,
    detector_of,
    images,
    run_pytorch,
)

OPTIONS = ExportOptions(hw=(192, 192))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')


def runner_of(name=ATTO, options=OPTIONS, **arguments):
    detector = detector_of(name)
    return TorchRunner(detector, describe(detector, config_of(ATTO), options), **arguments)


def assert_same(expected, actual, box=0.1, score=1e-4):
    difference = compare([value[0] for value in expected], [value[0] for value in actual])
    assert difference.within(box, score), str(difference)


def test_results_are_those_of_the_detector():
    batch = images(OPTIONS.hw)
    before = copy.deepcopy(detector_of(ATTO).state_dict())
    runner = runner_of()
    actual = runner.run(dict(images=batch))
    assert_same(run_pytorch(detector_of(ATTO), OPTIONS, batch), actual)
    assert [value.dtype for value in actual[:2]] == [np.float32] * 2
    assert runner.name == f'PyTorch {torch.__version__}' and runner.device == 'cpu'
    # the detector that was given is as it was
    after = detector_of(ATTO).state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_without_postprocessing():
    logits, boxes = runner_of(postprocess=False).run(dict(images=images(OPTIONS.hw)))
    assert logits.shape == (1, 100, 10) and boxes.shape == (1, 100, 4)


def test_weights_in_float16_are_what_autocast_makes_of_them():
    """To the bit: nothing that autocast leaves in float32 has become float16."""
    batch = dict(images=images(OPTIONS.hw))
    half = runner_of(half=True, postprocess=False)
    whole = runner_of(postprocess=False)
    whole.half = True  # autocast alone
    for expected, actual in zip(whole.run(batch), half.run(batch)):
        np.testing.assert_array_equal(actual, expected)
    module = copy.deepcopy(whole.module)
    halve_weights(module)
    kinds = {name: value.dtype for name, value in module.named_parameters()}
    assert torch.float16 in kinds.values()
    assert all(value.dtype != torch.float16 for value in module.buffers())
    assert all(kinds[name] == torch.float32 for name in kinds if '.norm' in name)


def test_the_cpu_has_no_clock_of_its_own():
    with pytest.raises(ValueError, match='runs on cpu: only a GPU has a clock'):
        runner_of().gpu_times(dict(images=images(OPTIONS.hw)), 1)


@pytest.mark.slow
def test_compiled():
    batch = images(OPTIONS.hw)
    actual = runner_of(compiled=True).run(dict(images=batch))
    assert_same(run_pytorch(detector_of(ATTO), OPTIONS, batch), actual)


@needs_gpu
@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('half', [False, True])
def test_gpu(half, compiled):
    options = ExportOptions(hw=(256, 256))
    batch = images(options.hw)
    runner = runner_of('deim_hgnetv2_n', options, device='cuda', half=half, compiled=compiled)
    expected = run_pytorch(detector_of('deim_hgnetv2_n'), options, batch)
    tolerances = (1, 1e-2) if half else (0.1, 1e-3)  # convolutions may use TF32
    for _ in range(3):  # CUDA graphs are recorded in the second run
        assert_same(expected, runner.run(dict(images=batch)), *tolerances)
    times = runner.gpu_times(dict(images=batch), 3)
    assert runner.device == 'cuda' and len(times) == 3 and min(times) > 0
