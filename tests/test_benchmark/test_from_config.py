# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from deim_mmdet.benchmark.from_config import build_detector, build_optimizer, dtype_of


@pytest.mark.parametrize(('amp', 'dtype'), [(False, torch.float32), (True, torch.bfloat16)])
def test_optimizer_of_a_config(small_dfine, amp, dtype):
    before = small_dfine.to_dict()
    wrapper = build_optimizer(build_detector(small_dfine), small_dfine, amp)
    assert dtype_of(wrapper) == dtype
    assert (type(wrapper) is OptimWrapper) == (not amp)
    assert small_dfine.to_dict() == before


@pytest.mark.parametrize('given', [torch.bfloat16, None])
def test_precision_of_mmengine(given):
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)  # it cannot be built without a GPU
    wrapper.cast_dtype = given
    assert dtype_of(wrapper) == (given or torch.float16)
