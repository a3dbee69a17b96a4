# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from itertools import count

import pytest
from mmengine.registry import DefaultScope

# With mmcv-lite mmdet can be imported after the plugin only, whichever test runs first.
import deim_mmdet  # noqa: F401

_tests = count()


@pytest.fixture(autouse=True)
def mmdet_scope():
    """Names are looked up in mmdet's registries, whatever Runner an earlier test has built."""
    DefaultScope.get_instance(f'test_{next(_tests)}', scope_name='mmdet')
