# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DN-DETR and DN-Deformable-DETR against the published implementation, with name-seeded weights."""

from unittest import mock

import numpy as np
import pytest
import torch

from deim_mmdet.convert import revert_state_dict
from deim_mmdet.models.detectors import DenoisingMixin
from tests.fixtures import fill
from tests.test_models.parity import Case, gradient_norm, training_with_fixed_norms
from tests.test_models.samples import data_samples

CONFIGS = {
    'dn_detr_r50': 'dn_detr/dn-detr_r50_8xb2-50e_coco',
    'dn_deformable_detr_r50': 'dn_detr/dn-deformable-detr_r50_8xb2-50e_coco',
}
# Logits and boxes. The padded image of DN-DETR is the least exact: in double precision the logits
# are 1e-4 from ours, and 2e-4 from the published ones.
TOLERANCES = {'': (1e-4, 1e-5), 'padded_': (3e-4, 1e-5)}


@pytest.fixture(scope='module', params=CONFIGS)
def case(request) -> Case:
    case = Case(request.param, case=(request.param, CONFIGS[request.param]), num_classes=91)
    # the fixtures were made without noise
    case.model.denoising.label_noise = case.model.denoising.box_noise = 0
    return case


def losses_of(case, counts, with_denoising):
    """Losses of the two training images with so many objects each."""
    images = torch.from_numpy(fill.images(2, 256, 256))
    model = training_with_fixed_norms(case.model)
    samples = data_samples(counts, num_classes=91)
    if with_denoising:
        return model.loss(images, samples)
    # normal queries as ever, and no others
    base = next(c for c in type(model).__mro__ if c.__module__.startswith('mmdet.'))
    with mock.patch.object(DenoisingMixin, 'forward_decoder', base.forward_decoder):
        return model.loss(images, samples)


def expected_losses(case, prefix):
    """Weighted loss terms of the fixture under our names; terms of weight 0 are not trained on."""
    parts = (case.golden[f'{prefix}_{part}'].tolist() for part in ('keys', 'values', 'weights'))
    return {our_name(key): value * weight for key, value, weight in zip(*parts) if weight}


def our_name(key):
    """Published name of a loss term -> ours, for instance tgt_loss_giou_0 -> d0.dn_loss_iou."""
    kind, _, rest = key.rpartition('loss_')
    term, _, layer = rest.partition('_')
    term = {'ce': 'cls', 'giou': 'iou'}.get(term, term)
    return (f'd{layer}.' if layer else '') + ('dn_' if kind == 'tgt_' else '') + f'loss_{term}'


def test_every_key_is_converted_both_ways(case):
    assert np.isclose(fill.weight_sum(case.weights), case.golden['weight_sum'], rtol=1e-6)
    assert case.report.fits
    assert set(case.report.mapped) | set(case.report.dropped) == set(case.weights)
    assert all('.bbox_embed.' in key for key in case.report.dropped)  # second copies

    back, family = revert_state_dict(case.model.state_dict())
    assert family.name == case.report.family
    assert set(back) == set(case.weights)
    assert all(torch.equal(back[key], value) for key, value in case.published.items())


def test_parameter_count(case):
    # norms of the published backbones are no parameters; ours are, but are not trained
    norms = [m for m in case.model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    frozen = [p for norm in norms for p in norm.parameters()]
    assert not any(p.requires_grad for p in frozen)
    number = sum(p.numel() for p in case.model.parameters()) - sum(p.numel() for p in frozen)
    assert number == int(case.golden['num_params'])


@pytest.mark.parametrize('prefix', TOLERANCES)
def test_evaluation_outputs(case, prefix):
    samples, image = data_samples((0,)), case.image
    if prefix:  # the second of two images has a border
        sizes = case.golden['padded_sizes'].tolist()
        samples, image = data_samples((0, 0)), torch.from_numpy(fill.images(2, 256, 256))
        for i, (height, width) in enumerate(sizes):
            image[i, :, height:], image[i, :, :, width:] = 0, 0
            samples[i].set_metainfo(dict(img_shape=(height, width)))
    with torch.no_grad():
        cls_scores, bboxes = case.model.eval()._forward(image, samples)
    for name, found, tolerance in zip(
        ('pred_logits', 'pred_boxes'), (cls_scores, bboxes), TOLERANCES[prefix]
    ):
        expected = case.golden[prefix + name][0]
        np.testing.assert_allclose(found[-1, -1], expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ('prefix', 'counts', 'with_denoising'),
    [
        ('losses_dn_empty', (0, 7), True),  # an image without objects
        ('losses', (5, 9), False),
        ('losses_dn', (5, 9), True),
    ],
)
def test_losses_and_gradients(case, prefix, counts, with_denoising):
    model, golden = case.model, case.golden
    model.zero_grad()
    losses = losses_of(case, counts, with_denoising)
    expected = expected_losses(case, prefix)
    if not with_denoising:
        expected = {name: value for name, value in expected.items() if 'dn_' not in name}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-4, atol=1e-7, err_msg=name)
    if prefix == 'losses_dn':
        total = sum(losses.values())
        np.testing.assert_allclose(total.item(), golden['losses_dn_total'], rtol=1e-5)
        total.backward()
        others = [child for name, child in model.named_children() if name != 'backbone']
        parts = dict(
            backbone=[model.backbone],
            encoder=[model.encoder],
            decoder=[child for child in others if child is not model.encoder],
        )
        if hasattr(model, 'level_embed'):  # a parameter of the detector itself
            parts['decoder'].append(torch.nn.ParameterList([model.level_embed]))
        for part, modules in parts.items():
            norm = gradient_norm(modules)
            np.testing.assert_allclose(norm, golden[f'grad_norm_{part}'], rtol=1e-4, err_msg=part)
