# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import sys

from tests.test_models.parity import ROOT

from .foreign import foreign  # noqa: F401  a fixture

sys.path.append(str(ROOT / 'tools'))  # some of the tools import their neighbours
