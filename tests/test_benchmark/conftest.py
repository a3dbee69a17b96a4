# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config

from tests.test_peers.small_models import BASES, DFINE, RTDETR

CONFIGS = BASES.parents[1]
SMALL = {
    'dfine': ('dfine/dfine_hgnetv2-l_8xb4-80e_coco.py', DFINE),
    'rtdetrv2': ('rtdetrv2/rtdetrv2_r50vd_8xb2-72e_coco.py', RTDETR),
}


@pytest.fixture(params=SMALL)
def small_config(request):
    """A whole config whose model has every kind of layer in a few channels."""
    path, model = SMALL[request.param]
    config = Config.fromfile(CONFIGS / path)
    config.merge_from_dict(dict(model=model))
    return config


@pytest.fixture
def small_dfine():
    config = Config.fromfile(CONFIGS / SMALL['dfine'][0])
    config.merge_from_dict(dict(model=DFINE))
    return config
