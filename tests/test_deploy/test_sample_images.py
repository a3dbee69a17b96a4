# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config

from deim_mmdet.deploy.sample_images import draw_scene, has_test_set, sample_images, spread

# fmt: off
WITHOUT = [
    # a config without a test set
    {},
    dict(test_dataloader=None),
    dict(test_dataloader=dict(dataset=dict(type='CocoDataset', data_root=None))),
    dict(test_dataloader=dict(dataset=dict(type='CocoDataset', data_root='missing/'))),
]
# fmt: on


@pytest.mark.parametrize('config', WITHOUT)
def test_scenes_are_drawn_where_there_is_no_test_set(config):
    config = Config(config)
    assert not has_test_set(config)
    images, source = sample_images(None, config, (64, 96), 2)
    assert source == '2 drawn scenes'
    assert [(image.shape, image.dtype.name) for image in images] == [((64, 96, 3), 'uint8')] * 2
    assert (images[0] != images[1]).any() and (draw_scene((64, 96), 1) == images[1]).all()


def test_spread():
    assert spread([], 3) == []
    assert spread([1, 2], 3) == [1, 2]
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
