# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .foreign import foreign  # noqa: F401  a fixture
