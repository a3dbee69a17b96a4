# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmdet.registry import MODELS

SMALL = dict(
    depth=50, base_channels=4, stem_channels=4, out_indices=(2, 3), zero_init_residual=False
)


def build(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build({**SMALL, **kwargs})
    model.init_weights()
    model.eval()  # returns nothing
    return model


@torch.no_grad()
def test_every_second_cell_is_that_of_resnet():
    image = torch.randn(1, 3, 128, 192)
    c4, c5 = build(type='ResNet')(image)
    dilated = build(type='DC5ResNet')
    fine_c4, fine_c5 = dilated(image)
    torch.testing.assert_close(fine_c4, c4, rtol=0, atol=0)
    assert fine_c5.shape[-2:] == c4.shape[-2:] == (8, 12)
    torch.testing.assert_close(fine_c5[..., ::2, ::2], c5, rtol=1e-5, atol=1e-5)
    # not so with the settings of mmdet
    theirs = build(type='ResNet', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    assert (theirs(image)[1][..., ::2, ::2] - c5).abs().max() > 0.1 * c5.std()


def test_basic_blocks_are_refused():
    with pytest.raises(ValueError, match='depth must be 50, 101 or 152, got 18'):
        build(type='DC5ResNet', depth=18)
