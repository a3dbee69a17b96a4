# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Every architecture of the zoo exports, in both precisions, of one size and of any, and its graph
computes what PyTorch computes.
"""

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from deim_mmdet.deploy import ExportOptions
from deim_mmdet.deploy.export.graph import foreign_operators
from tests.test_deploy.models import (
    config_of,
    export,
    images,
    random_detector,
    run_pytorch,
)

# Configs that differ in nothing but training are named once.
ZOO = [
    *(f'deim/deim_dfine_hgnetv2-{size}' for size in (
        'atto_digits', 'n_8xb16-160e_coco', 's_8xb4-132e_coco', 'm_8xb4-102e_coco',
        'l_8xb4-58e_coco', 'x_8xb4-58e_coco',
    )),
    *(f'rtdetrv2/rtdetrv2_{size}' for size in (
        'r18vd_8xb2-120e_coco', 'r34vd_8xb2-120e_coco', 'r50vd-m_8xb2-84e_coco',
        'r50vd_8xb2-72e_coco', 'r101vd_8xb2-72e_coco',
    )),
    *(f'rtdetr/rtdetr_{size}_8xb2-72e_coco' for size in (
        'r18vd', 'r34vd', 'r50vd-m', 'r50vd', 'r101vd',
    )),
    *(f'deyo/deyo_yolov8-{size}_8xb2-96e_coco' for size in 'nsmlx'),
    'deyo/deyo-tiny_yolov8-n_8xb2-96e_coco',
    *(f'yolov8/yolov8_{size}_8xb16-500e_coco' for size in 'nsmlx'),
    'dn_detr/dn-detr_r50_8xb2-50e_coco',
    'dn_detr/dn-detr_r50-dc5_8xb2-50e_coco',
    'dn_detr/dn-detr_r101_8xb2-50e_coco',
    'dn_detr/dn-deformable-detr_r50_8xb2-50e_coco',
    # discrete sampling
    *(f'rtdetrv2/rtdetrv2_{size}_coco' for size in (
        'r18vd-dsp_8xb2-36e', 'r34vd-dsp_8xb2-12e', 'r50vd-m-dsp_8xb2-36e', 'r50vd-dsp_8xb2-12e',
    )),
]  # fmt: skip
# Largest differences in pixels and score, by share of the best detections.
#
# The weights are random, and a deep network of random weights enlarges rounding: rounding decides
# which of the tokens of about the same score become queries, and, in discrete sampling, between two
# cells. The yardstick is then PyTorch itself, in float32, on an image with noise of the size of one
# rounding: what runs elsewhere, and rounds everywhere, may differ a few times as much.
# fmt: off
TOLERANCES = {
    # half: pixels, score, share, noise
    False: (0.1, 1e-4, 0.9, 2.0**-23),
    True:  (1.0, 1e-2, 0.5, 2.0**-11),
}
# fmt: on
TIMES = 5
COUNT = 100
FAR = 1e4  # without a counterpart
ANY = dict(batch_size=None, dynamic_size=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', ZOO)
def test_size(name, tmp_path, record_property):
    config = config_of(name)
    for kind, dynamic, hw, count in (('static', {}, (640, 640), 1), ('any', ANY, (480, 672), 2)):
        detector = random_detector(config, hw)
        batch = images(hw, count)
        expected = run_pytorch(detector, ExportOptions(hw), batch)
        for half in (False, True):
            path = tmp_path / f'{kind}_{half}.onnx'
            model, session = export(detector, config, path, ExportOptions(half=half, **dynamic))
            assert foreign_operators(model) == {}
            found = differences(expected, session.run(None, dict(images=batch)))
            *tolerance, share, noise = TOLERANCES[half]
            noisy = run_pytorch(detector, ExportOptions(hw), with_noise(batch, noise))
            rounding = np.quantile(differences(expected, noisy), share, axis=1)
            error = np.quantile(found, share, axis=1)
            record_property(
                f'{kind}, {"float16" if half else "float32"}',
                f'{len(model.graph.node)} nodes, {path.stat().st_size / 1e6:.1f} MB, '
                f'{error[0]:.2g} px, {error[1]:.1g}; rounding {rounding[0]:.2g}, {rounding[1]:.1g}',
            )
            assert (error <= np.maximum(tolerance, TIMES * rounding)).all(), (error, rounding)
            path.unlink()  # all together are gigabytes


def with_noise(batch: np.ndarray, share: float) -> np.ndarray:
    return batch * (1 + share * np.random.default_rng(0).choice(np.float32([-1, 1]), batch.shape))


def differences(expected, actual):
    """Of each of the best detections from the nearest of its class, in pixels and in score."""
    found = []
    for i in range(len(expected[0])):
        for box, score, label in zip(*(value[i, :COUNT] for value in expected)):
            if score > 0:
                boxes, scores, labels = (value[i] for value in actual)
                sides = np.where(labels == label, np.abs(boxes - box).max(-1), FAR)
                points = np.abs(scores - score)
                nearest = (sides + 100 * points).argmin()
                found.append((sides[nearest], points[nearest]))
    assert found
    return np.transpose(found)
