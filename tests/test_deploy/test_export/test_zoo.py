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
DENSE = [
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
]  # fmt: skip
DISCRETE = [
    f'rtdetrv2/rtdetrv2_{size}-dsp_{recipe}_coco'
    for size, recipe in (
        ('r18vd', '8xb2-36e'),
        ('r34vd', '8xb2-12e'),
        ('r50vd-m', '8xb2-36e'),
        ('r50vd', '8xb2-12e'),
    )
]
# Largest differences in pixels and score that a share of the best detections must be within.
# Weights are random: rounding decides which of the tokens of about the same score become queries,
# and, in discrete sampling, between two cells.
# fmt: off
TOLERANCES = {
    # half: pixels, score, share, share with discrete sampling
    False: (0.1, 1e-4, 1.0, 0.97),
    True:  (1.0, 1e-2, 0.5, 0.5),
}
# fmt: on
COUNT = 100
ANY = dict(batch_size=None, dynamic_size=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', DENSE + DISCRETE)
def test_size(name, tmp_path, record_property):
    config = config_of(name)
    detector = random_detector(config)
    for kind, dynamic, hw, count in (('static', {}, (640, 640), 1), ('any', ANY, (480, 672), 2)):
        batch = images(hw, count)
        expected = run_pytorch(detector, ExportOptions(hw), batch)
        for half in (False, True):
            path = tmp_path / f'{kind}_{half}.onnx'
            model, session = export(detector, config, path, ExportOptions(half=half, **dynamic))
            assert foreign_operators(model) == {}
            pixels, points = differences(expected, session.run(None, dict(images=batch)))
            size = f'{len(model.graph.node)} nodes, {path.stat().st_size / 1e6:.1f} MB'
            shares = (0.5, 0.9, 1.0)
            errors = [np.quantile(values, shares).tolist() for values in (pixels, points)]
            record_property(f'{kind}, {"float16" if half else "float32"}', f'{size}, {errors}')
            box, score, *share = TOLERANCES[half]
            share = share[name in DISCRETE]
            assert np.quantile(pixels, share) <= box
            assert np.quantile(points, share) <= score


def differences(expected, actual):
    """Of each of the best detections from the nearest of its class, in pixels and in score."""
    found = []
    for i in range(len(expected[0])):
        for box, score, label in zip(*(value[i, :COUNT] for value in expected)):
            if score > 0:
                boxes, scores, labels = (value[i] for value in actual)
                sides = np.where(labels == label, np.abs(boxes - box).max(-1), np.inf)
                points = np.abs(scores - score)
                nearest = (sides + 100 * points).argmin()
                found.append((sides[nearest], points[nearest]))
    assert found
    return np.transpose(found)
