# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmengine.config import Config

from deim_mmdet.deploy.export.description import input_hw
from tests.test_deploy.models import ATTO, YOLOV8, config_of


def with_steps(*steps, **values):
    return Config(dict(test_dataloader=dict(dataset=dict(pipeline=list(steps))), **values))


# fmt: off
SIZES = [
    # config, multiples of, height and width
    (Config(),                                                                    32, (640, 640)),
    (with_steps(image_hw=(96, 64)),                                               32, (96, 64)),
    (with_steps(dict(type='Resize', scale=(64, 96)), image_hw=(32, 32)),          32, (96, 64)),
    (with_steps(dict(type='Resize', scale=(1333, 800), keep_ratio=True)),         32, (800, 1344)),
    (with_steps(dict(type='Resize', scale=(1333, 800), keep_ratio=True)),         1,  (800, 1333)),
    (config_of('dn_detr/dn-detr_r50_8xb2-50e_coco'),                              32, (800, 1344)),
    (config_of('yolov8/yolov8_n_8xb16-500e_coco'),                                32, (640, 640)),
    (config_of(YOLOV8),                                                           32, (192, 192)),
    (config_of(ATTO),                                                             32, (192, 192)),
]
# fmt: on


@pytest.mark.parametrize(('config', 'divisor', 'hw'), SIZES)
def test_input_hw(config, divisor, hw):
    assert input_hw(config, divisor) == hw
