# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import os
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

import deim_mmdet
from deim_mmdet.convert import convert_state_dict, describe_configs, fitting_configs
from deim_mmdet.convert.configs import _candidates, coco_configs, model_differences, model_state

from .published import published_state

CONFIGS = Path(__file__).parents[2] / 'configs'


def names(paths):
    """Names of configs without batch size and epochs."""
    return [Path(path).name.split('_8xb')[0] for path in paths]


@pytest.mark.parametrize(
    'table, wanted',
    [
        ('deim_hgnetv2_n', ['deim_dfine_hgnetv2-n', 'dfine_hgnetv2-n']),
        ('deim_r18vd_120e', ['deim_rtdetrv2_r18vd']),  # another query position MLP
        ('rtdetr_r18vd_6x', ['rtdetr_r18vd', 'rtdetrv2_r18vd-dsp', 'rtdetrv2_r18vd']),
    ],
)
def test_published_weights_find_their_configs(table, wanted, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    weights, _ = convert_state_dict(published_state(table))
    paths, differences = fitting_configs(weights)
    assert (names(paths), differences) == (wanted, 0)
    assert all(os.path.exists(path) and path.startswith('configs') for path in paths)
    assert describe_configs(weights) == f'Configs that fit: {", ".join(paths)}.'


def test_configs_of_other_sizes_find_themselves():
    for path, state in list(_candidates().items())[::6]:
        paths, differences = fitting_configs(state)
        assert path.name in [Path(each).name for each in paths] and differences == 0


def test_the_number_of_classes_and_denoising_play_no_part():
    cfg = Config.fromfile(CONFIGS / 'dfine/dfine_hgnetv2-n_8xb16-160e_coco.py')
    eighty = model_state(cfg)
    cfg.model.bbox_head.num_classes = 3
    three = model_state(cfg)
    assert three['query_selection.cls_branch.bias'].shape == (3,)
    assert 'denoising.label_embedding.weight' not in three
    more = {'denoising.label_embedding.weight': torch.zeros(4, 128)}
    assert model_differences({**eighty, **more}, three).fits
    assert all(tensor.is_meta for tensor in eighty.values())


def test_classes_in_place_of_their_names():
    cfg = Config.fromfile(CONFIGS / 'dfine/dfine_hgnetv2-n_8xb16-160e_coco.py')
    named = model_state(cfg)
    for part in (cfg.model, cfg.model.backbone, cfg.model.decoder):
        part.type = MODELS.get(part.type)
    before = copy.deepcopy(cfg.model)
    state = model_state(cfg)
    assert {key: each.shape for key, each in state.items()} == {
        key: each.shape for key, each in named.items()
    }
    assert cfg.model == before
    assert model_state(cfg) is state  # built once


def test_the_closest_configs_of_a_changed_model():
    weights, _ = convert_state_dict(published_state('rtdetr_r18vd_6x'))
    del weights['decoder.cls_branches.2.bias']
    weights['decoder.layers.0.norm1.bias'] = torch.zeros(3)
    text = describe_configs(weights)
    assert text.startswith('No config of this package fits; the closest, with 2 differences: ')
    assert 'rtdetrv2_r18vd_8xb2-120e_coco.py' in text


def test_configs_of_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / 'deim_mmdet'
    monkeypatch.setattr(deim_mmdet, '__file__', str(package / '__init__.py'))
    strange = tmp_path / 'configs' / 'other'  # beside the package, and of another one
    own = package / '.mim' / 'configs' / 'dfine'
    for folder in (strange, own):
        folder.mkdir(parents=True)
        (folder / 'a_coco.py').touch()
    assert coco_configs() == []
    (package / '.mim' / 'model-index.yml').touch()
    assert coco_configs() == [own / 'a_coco.py']
