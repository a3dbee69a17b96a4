# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Every size: transformers builds the model of our config with the weights that we write."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from deim_mmdet.convert.configs import coco_configs
from deim_mmdet.convert.family import PublishedForm
from deim_mmdet.convert.state_dict import revert_state_dict
from deim_mmdet.convert.transformers_config import (
    MODEL_TYPES,
    points_per_level,
    transformers_config,
)
from deim_mmdet.convert.transformers_folder import evaluated_layers, names_in_files

transformers = pytest.importorskip('transformers')


@pytest.mark.parametrize('path', coco_configs(), ids=lambda path: path.stem)
def test_names_and_shapes(path):
    model = Config.fromfile(path, import_custom_modules=False).model
    init_default_scope('mmdet')
    if model.type not in ('DFINE', 'RTDETR'):
        pytest.skip('transformers has no such model')
    model.backbone.init_cfg = None
    config = transformers_config(model)
    with torch.device('meta'):  # no memory, no initialisation
        ours = MODELS.build(model).state_dict()
        theirs = names_in_files(their_model(config).state_dict())
    form = PublishedForm(points_per_level=tuple(points_per_level(config)))
    written, _ = revert_state_dict(
        evaluated_layers(ours, config['decoder_layers']),
        'transformers',
        MODEL_TYPES[config['model_type']][0],
        form,
    )
    assert shapes(written) == shapes(theirs)


def their_model(config):
    if 'auto_map' in config:
        from deim_mmdet.convert import modeling_deim

        model = getattr(modeling_deim, config['architectures'][0])
        return model(model.config_class(**config))
    config = transformers.AutoConfig.for_model(**config)
    return transformers.AutoModelForObjectDetection.from_config(config)


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
