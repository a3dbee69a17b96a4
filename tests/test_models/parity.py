# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Models with the name-seeded weights of the fixtures, under which the published implementations
were run.
"""

from pathlib import Path
from typing import Dict, Optional
from unittest import mock

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from deim_mmdet.convert import convert_state_dict
from tests.fixtures import fill
from tests.test_models.samples import data_samples

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests/fixtures'

# fixture -> table of keys and shapes, config
# fmt: off
CASES = {
    'deim_hgnetv2_n':      ('deim_hgnetv2_n', 'deim/deim_dfine_hgnetv2-n_8xb16-160e_coco'),
    'dfine_hgnetv2_n':     ('dfine_hgnetv2_n', 'dfine/dfine_hgnetv2-n_8xb16-160e_coco'),
    'deim_r18vd_120e':     ('deim_r18vd_120e', 'deim/deim_rtdetrv2_r18vd_8xb2-120e_coco'),
    'rtdetrv2_r18vd_120e': ('rtdetrv2_r18vd_120e', 'rtdetrv2/rtdetrv2_r18vd_8xb2-120e_coco'),
    # outputs only
    'deim_r18vd_120e_448': ('deim_r18vd_120e', 'deim/deim_rtdetrv2_r18vd_8xb2-120e_coco'),
    'rtdetrv2_r18vd_dsp':  ('rtdetrv2_r18vd_120e', 'rtdetrv2/rtdetrv2_r18vd-dsp_8xb2-36e_coco'),
    'rtdetr_r18vd_6x':     ('rtdetr_r18vd_6x', 'rtdetr/rtdetr_r18vd_8xb2-72e_coco'),
}
# fmt: on


class Case:
    """A model with the weights of a fixture, and the fixture.

    Args:
        name (str): Name of the fixture, one of ``CASES``.
        fixtures (Path): Folder of ``<name>.npz``. Defaults to the one in the repository.
        tables (Path): Folder of ``<table>.tsv``. Defaults to the one in the repository.
        case (tuple, optional): Table and config in place of those of ``CASES``.
        num_classes (int, optional): Number of classes in place of that of the config.
    """

    def __init__(
        self,
        name: str,
        fixtures: Path = FIXTURES,
        tables: Path = FIXTURES,
        case: Optional[tuple] = None,
        num_classes: Optional[int] = None,
    ):
        init_default_scope('mmdet')
        table, config = case or CASES[name]
        self.config = ROOT / 'configs' / f'{config}.py'
        self.golden = np.load(fixtures / f'{name}.npz')
        self.weights = fill.state_dict_from_tsv(tables / f'{table}.tsv')
        model = Config.fromfile(self.config).model
        if num_classes is not None:
            model.bbox_head.num_classes = num_classes
        self.model = MODELS.build(model)
        converted, self.report = convert_state_dict(self.published, self.model.state_dict())
        self.model.load_state_dict(converted, strict=False)

    @property
    def published(self) -> Dict[str, Tensor]:
        """Weights under their published names."""
        return {key: torch.from_numpy(value) for key, value in self.weights.items()}

    @property
    def image(self) -> Tensor:
        size = int(self.golden['size'])
        return torch.from_numpy(fill.image(size, size, int(self.golden['image_seed'])))

    @torch.no_grad()
    def outputs(self, model: Optional[torch.nn.Module] = None) -> Dict[str, np.ndarray]:
        """Results of the image under the names of the fixture, by this model or another."""
        model = (model or self.model).eval()
        memory, spatial_shapes, selected = model.propose(self.image)
        sets = model.decode(memory, spatial_shapes, selected)
        return dict(
            topk_index=selected.index[0].numpy(),
            topk_score=selected.cls_scores[0].max(-1).values.numpy(),
            pred_logits=sets.cls_scores[-1].numpy(),
            pred_boxes=sets.bboxes[-1].numpy(),
        )

    def losses(self, counts: tuple, with_denoising: bool) -> Dict[str, Tensor]:
        """Losses of the two training images with so many objects each."""
        images = np.concatenate(
            [fill.image(256, 256, int(seed)) for seed in self.golden['train_seeds']]
        )
        model, denoising = training_with_fixed_norms(self.model), self.model.denoising
        try:
            model.denoising = denoising if with_denoising else None
            with constant_noise():
                return model.loss(torch.from_numpy(images), data_samples(counts))
        finally:
            model.denoising = denoising

    def expected_losses(self, prefix: str) -> Dict[str, float]:
        """Loss terms of the fixture under our names."""
        keys, values = self.golden[f'{prefix}_keys'], self.golden[f'{prefix}_values']
        num_layers = self.model.decoder.num_layers
        return {our_name(key, num_layers): value for key, value in zip(keys.tolist(), values)}


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


def our_name(key: str, num_layers: int) -> str:
    """Published name of a loss term -> ours, for instance loss_giou_dn_0 -> d0.dn_loss_iou."""
    term, _, place = key[len('loss_') :].partition('_')
    term = {'mal': 'loss_cls', 'vfl': 'loss_cls', 'giou': 'loss_iou'}.get(term, f'loss_{term}')
    final = f'dn_{num_layers - 1}'
    prefix = {'': '', 'pre': 'pre.', 'enc_0': 'enc_', 'dn_pre': 'pre.dn_', final: 'dn_'}.get(place)
    if prefix is None:
        kind, layer = place.split('_')
        prefix = {'aux': f'd{layer}.', 'dn': f'd{layer}.dn_'}[kind]
    return prefix + term


def gradient_norm(modules) -> float:
    grads = [p.grad.double() for m in modules for p in m.parameters() if p.grad is not None]
    return torch.stack([grad.norm() for grad in grads]).norm().item()
