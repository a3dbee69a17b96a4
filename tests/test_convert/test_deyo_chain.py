# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""From a .pt file, a model that was pickled whole, to a trained step and to predictions."""

import runpy

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config

from deim_mmdet.convert import load_weights_only, revert_state_dict
from tests.test_convert.foreign import forget, save
from tests.test_models.deyo_runs import (
    DIGITS,
    FROZEN,
    Images,
    Watch,
    build,
    build_stage_one,
    build_stage_two,
    make_runner,
)
from tests.test_models.parity import ROOT

TOOL = ROOT / 'tools/convert_weights.py'
DEYO = ROOT / 'configs/deyo/deyo_yolov8-atto_digits.py'


@pytest.fixture
def convert(tmp_path):
    """``tools/convert_weights.py`` on a .pt file of published weights."""

    def run(foreign, weights, name):
        in_half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        model = foreign.Named(in_half)
        model.names = dict(enumerate(DIGITS))
        source = save(dict(epoch=-1, model=model, ema=None), tmp_path / f'{name}.pt')
        forget()
        target = tmp_path / f'{name}.pth'
        runpy.run_path(str(TOOL))['main']([str(source), str(target)])
        return target

    return run


def test_yolov8_to_a_step_of_the_second_stage(foreign, convert, tmp_path, capsys):
    published = revert_state_dict(build_stage_one().state_dict(), family='YOLOv8')[0]
    converted = convert(foreign, published, 'yolov8')
    assert 'YOLOv8' in capsys.readouterr().out
    weights = load_weights_only(converted)['state_dict']

    watch = Watch()
    runner = make_runner(
        tmp_path / 'run', 1, Images((2, 3)), hooks=[watch], load_from=str(converted)
    )
    runner.train()
    (losses,) = watch.losses
    assert np.isfinite(list(losses.values())).all()
    state = runner.model.state_dict()
    for key in state:
        if key.startswith(FROZEN):
            assert torch.equal(state[key], weights[key]), key
    key = 'bbox_head.box_branch.branches.0.weight'  # trained, from what was converted
    assert 0 < (state[key] - weights[key]).abs().max() < 0.01


def test_deyo_to_predictions(foreign, convert, capsys):
    model = build_stage_two().eval()
    with torch.no_grad():  # the bits that half precision keeps
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half() if tensor.is_floating_point() else tensor)
    published = revert_state_dict(model.state_dict(), family='DEYO')[0]
    stage_one = revert_state_dict(build_stage_one().state_dict(), family='YOLOv8')[0]
    published.update({k: v for k, v in stage_one.items() if '.cv3.' in k})  # its class branch
    converted = convert(foreign, published, 'deyo')
    assert 'class branch of YOLOv8, which DEYO does not use' in capsys.readouterr().out

    image = np.random.RandomState(0).randint(0, 256, (64, 96, 3), dtype=np.uint8)
    cfg = Config.fromfile(DEYO)
    detector = init_detector(cfg, str(converted), device='cpu')
    assert detector.dataset_meta['classes'] == DIGITS
    found = inference_detector(detector, image).pred_instances
    detector.load_state_dict(model.state_dict())
    expected = inference_detector(detector, image).pred_instances
    assert len(found) == cfg.model.test_cfg.max_per_img
    for name in ('scores', 'labels', 'bboxes'):
        assert torch.equal(found[name], expected[name]), name


def test_a_yolov8_of_another_size_stops_the_second_stage(foreign, convert, tmp_path):
    published = revert_state_dict(build('yolov8/yolov8_n_digits').state_dict(), family='YOLOv8')[0]
    converted = convert(foreign, published, 'yolov8')
    runner = make_runner(tmp_path / 'run', 1, load_from=str(converted))
    with pytest.raises(ValueError, match='checkpoint is YOLOv8-N, that of the model is one with'):
        runner.train()
