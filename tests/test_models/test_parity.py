# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEIM, D-FINE, RT-DETRv2 and RT-DETR against the published implementations, with name-seeded
weights, through the configs of the zoo.
"""

import numpy as np
import pytest
import torch

from tests.fixtures import fill
from tests.test_models.parity import CASES, ROOT, Case, gradient_norm

WITH_LOSSES = ('deim_hgnetv2_n', 'dfine_hgnetv2_n', 'deim_r18vd_120e', 'rtdetrv2_r18vd_120e')


@pytest.fixture(scope='module', params=CASES)
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(scope='module', params=WITH_LOSSES)
def training_case(request) -> Case:
    return Case(request.param)


def test_every_key_is_converted(case):
    assert np.isclose(fill.weight_sum(case.weights), case.golden['weight_sum'], rtol=1e-6)
    assert case.report.fits
    assert set(case.report.mapped) | set(case.report.dropped) == set(case.weights)
    num_params = sum(p.numel() for p in case.model.parameters())
    assert num_params == int(case.golden['num_params'])


def test_evaluation_outputs(case, request):
    golden, outputs = case.golden, case.outputs()
    # tokens outside the anchors' valid range have one score and one result: any of them will do
    expected_score = golden['token_score'][golden['topk_index']]
    np.testing.assert_allclose(outputs['topk_score'], expected_score, rtol=0, atol=1e-4)
    tied = np.isin(expected_score, expected_score[1:][np.diff(expected_score) == 0])
    np.testing.assert_array_equal(outputs['topk_index'][~tied], golden['topk_index'][~tied])
    assert tied.sum() == (220 if int(golden['size']) == 448 else 0)

    for name, tolerance in (('pred_logits', 1e-4), ('pred_boxes', 1e-5)):
        error = np.abs(outputs[name] - golden[name]).max(-1)  # of each query
        if 'dsp' in request.node.name:
            # rounding moves a few samples to the next cell
            error = np.quantile(error, 0.95)
        assert error.max() < tolerance, name


@pytest.mark.parametrize(
    ('prefix', 'counts', 'with_denoising'),
    [
        ('losses_noobj', (0, 0), False),  # no object in the batch
        ('losses_empty', (0, 7), False),  # an image without objects
        ('losses', (5, 9), False),
        ('losses_dn_empty', (0, 7), True),
        ('losses_dn', (5, 9), True),
    ],
)
def test_losses_and_gradients(training_case, prefix, counts, with_denoising):
    model, golden = training_case.model, training_case.golden
    model.zero_grad()
    losses = training_case.losses(counts, with_denoising)
    expected = training_case.expected_losses(prefix)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        # a union matching with ties may move a term, but never at this size of batch
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-4, atol=1e-7, err_msg=name)

    if prefix == 'losses':
        sum(losses.values()).backward()
        parts = dict(
            backbone=[model.backbone],
            encoder=[model.neck],
            decoder=[model.decoder, model.query_selection, model.memory_projs],
        )
        for part, modules in parts.items():
            norm = gradient_norm(modules)
            np.testing.assert_allclose(norm, golden[f'grad_norm_{part}'], rtol=1e-4, err_msg=part)


@pytest.mark.parametrize('name', ['deim_hgnetv2_n', 'rtdetr_r18vd_6x'])
def test_published_checkpoint_through_the_tool(tmp_path, name):
    """convert_weights.py writes what init_detector and inference_detector take."""
    import subprocess
    import sys

    from mmdet.apis import inference_detector, init_detector

    case = Case(name)
    torch.save(
        {'ema': {'module': case.published, 'updates': 1}, 'last_epoch': 1}, tmp_path / 'in.pth'
    )
    command = [
        sys.executable,
        ROOT / 'tools/convert_weights.py',
        tmp_path / 'in.pth',
        tmp_path / 'out.pth',
    ]
    subprocess.run([*command, '--config', case.config], check=True, cwd=ROOT)

    model = init_detector(str(case.config), str(tmp_path / 'out.pth'), device='cpu')
    outputs = case.outputs(model)
    np.testing.assert_allclose(
        outputs['pred_logits'], case.golden['pred_logits'], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(outputs['pred_boxes'], case.golden['pred_boxes'], rtol=0, atol=1e-5)

    picture = np.random.RandomState(0).randint(0, 256, (240, 320, 3), np.uint8)
    detections = inference_detector(model, picture).pred_instances
    assert len(detections) == 300
    assert model.dataset_meta['classes'][0] == 'person'
