# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""DEIM-D-FINE-N and D-FINE-N against the published implementation, with name-seeded weights."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from deim_mmdet.convert import convert_state_dict
from tests.fixtures import fill
from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests/fixtures'
NUM_LAYERS = 3
NAMES = ('deim_hgnetv2_n', 'dfine_hgnetv2_n')


class Case:
    """A model with the weights of a fixture, and the fixture."""

    def __init__(self, name: str):
        init_default_scope('mmdet')
        base = 'deim_dfine' if name.startswith('deim') else 'dfine'
        config = Config.fromfile(ROOT / f'configs/_base_/models/{base}_hgnetv2-n.py')
        self.golden = np.load(FIXTURES / f'{name}.npz')
        self.weights = fill.state_dict_from_tsv(FIXTURES / f'{name}.tsv')
        self.model = MODELS.build(config.model)
        published = {key: torch.from_numpy(value) for key, value in self.weights.items()}
        converted, self.report = convert_state_dict({'model': published}, self.model.state_dict())
        self.model.load_state_dict(converted, strict=False)

    @property
    def image(self) -> torch.Tensor:
        size = int(self.golden['size'])
        return torch.from_numpy(fill.image(size, size, int(self.golden['image_seed'])))


@pytest.fixture(scope='module', params=NAMES)
def case(request) -> Case:
    return Case(request.param)


def test_every_key_is_converted(case):
    assert np.isclose(fill.weight_sum(case.weights), case.golden['weight_sum'], rtol=1e-6)
    assert case.report.fits
    assert set(case.report.mapped) | set(case.report.dropped) == set(case.weights)
    num_params = sum(p.numel() for p in case.model.parameters())
    assert num_params == int(case.golden['num_params']) == 3_782_693


def test_evaluation_outputs(case):
    model = case.model.eval()
    with torch.no_grad():
        memory, spatial_shapes = model.encode(case.image)
        selected = model.query_selection(memory, spatial_shapes)
        cls_scores, bboxes = model(case.image, mode='tensor')
    np.testing.assert_array_equal(selected.index.numpy(), case.golden['topk_index'][None])
    np.testing.assert_allclose(
        cls_scores[-1].numpy(), case.golden['pred_logits'], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(bboxes[-1].numpy(), case.golden['pred_boxes'], rtol=0, atol=1e-5)


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
def test_losses_and_gradients(case, prefix, counts, with_denoising):
    model, golden = case.model, case.golden
    images = np.concatenate([fill.image(256, 256, int(seed)) for seed in golden['train_seeds']])
    training_with_fixed_norms(model).zero_grad()
    denoising = model.denoising
    try:
        model.denoising = denoising if with_denoising else None
        with constant_noise():
            losses = model.loss(torch.from_numpy(images), data_samples(counts))
    finally:
        model.denoising = denoising

    expected = dict(zip(golden[f'{prefix}_keys'].tolist(), golden[f'{prefix}_values']))
    expected = {our_name(key): value for key, value in expected.items()}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        # a union matching with ties may move a term, but never at this size of batch
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-4, atol=1e-7, err_msg=name)

    if prefix == 'losses':
        sum(losses.values()).backward()
        parts = dict(
            backbone=[model.backbone],
            encoder=[model.neck],
            decoder=[model.decoder, model.query_selection],
        )
        for part, modules in parts.items():
            norm = gradient_norm(modules)
            np.testing.assert_allclose(norm, golden[f'grad_norm_{part}'], rtol=1e-4, err_msg=part)


def test_published_checkpoint_through_the_tool(tmp_path):
    """convert_weights.py writes what init_detector and inference_detector take."""
    import subprocess
    import sys

    from mmdet.apis import inference_detector, init_detector

    case = Case('deim_hgnetv2_n')
    published = {key: torch.from_numpy(value) for key, value in case.weights.items()}
    torch.save({'ema': {'module': published, 'updates': 1}, 'last_epoch': 1}, tmp_path / 'in.pth')
    config = ROOT / 'configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py'
    command = [
        sys.executable,
        ROOT / 'tools/convert_weights.py',
        tmp_path / 'in.pth',
        tmp_path / 'out.pth',
    ]
    subprocess.run([*command, '--config', config], check=True, cwd=ROOT)

    model = init_detector(str(config), str(tmp_path / 'out.pth'), device='cpu')
    with torch.no_grad():
        cls_scores, bboxes = model(case.image, mode='tensor')
    np.testing.assert_allclose(
        cls_scores[-1].numpy(), case.golden['pred_logits'], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(bboxes[-1].numpy(), case.golden['pred_boxes'], rtol=0, atol=1e-5)

    picture = np.random.RandomState(0).randint(0, 256, (240, 320, 3), np.uint8)
    detections = inference_detector(model, picture).pred_instances
    assert len(detections) == 300
    assert model.dataset_meta['classes'][0] == 'person'


def training_with_fixed_norms(model: torch.nn.Module) -> torch.nn.Module:
    """Training mode, batch norms in evaluation mode: what the fixtures were made with."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def constant_noise():
    """Every uniform random number becomes 0.3 and every random integer 1."""
    return mock.patch.multiple(
        torch,
        rand_like=lambda tensor, **kwargs: torch.full_like(tensor, 0.3, **kwargs),
        randint_like=lambda tensor, *args, **kwargs: torch.full_like(tensor, 1, **kwargs),
    )


def our_name(key: str) -> str:
    """Published name of a loss term -> ours, for instance loss_giou_dn_0 -> d0.dn_loss_iou."""
    term, _, place = key[len('loss_') :].partition('_')
    term = {'mal': 'loss_cls', 'vfl': 'loss_cls', 'giou': 'loss_iou'}.get(term, f'loss_{term}')
    final = f'dn_{NUM_LAYERS - 1}'
    prefix = {'': '', 'pre': 'pre.', 'enc_0': 'enc_', 'dn_pre': 'pre.dn_', final: 'dn_'}.get(place)
    if prefix is None:
        kind, layer = place.split('_')
        prefix = {'aux': f'd{layer}.', 'dn': f'd{layer}.dn_'}[kind]
    return prefix + term


def gradient_norm(modules) -> float:
    grads = [p.grad.double() for m in modules for p in m.parameters() if p.grad is not None]
    return torch.stack([grad.norm() for grad in grads]).norm().item()
