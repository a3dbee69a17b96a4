# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def tool():
    """Import a file of tools/ as a module: ``tool('demo').main([...])``."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
