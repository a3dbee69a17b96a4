# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import torch
from torch import nn

from deim_mmdet.engine import ChannelsLastHook


def test_feature_maps_follow_the_weights_and_results_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    image = torch.rand(2, 3, 16, 12)
    expected, keys = model(image), list(model.state_dict())

    ChannelsLastHook().before_run(SimpleNamespace(model=model))
    result = model(image)  # an image in the ordinary order

    assert result.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == keys
