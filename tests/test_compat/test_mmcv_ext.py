# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import pytest

from deim_mmdet.compat import _ext_torch, mmcv_ext

HAS_COMPILED_OPS = importlib.util.find_spec('mmcv._ext').origin != str(mmcv_ext.SUBSTITUTE)


def run(code, **kwargs):
    process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, **kwargs)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_finder_answers_one_name_only():
    finder = mmcv_ext.MMCVExtFinder()
    assert finder.find_spec('mmcv._ext').origin == str(mmcv_ext.SUBSTITUTE)
    for name in ('mmcv', 'mmcv.ops', 'mmcv._ext.nms', '_ext', 'torch._C'):
        assert finder.find_spec(name) is None


def test_finder_is_last_and_installed_once():
    count = len(sys.meta_path)
    mmcv_ext.install()
    mmcv_ext.install()
    assert len(sys.meta_path) == count
    extensions = [getattr(finder, 'extension', None) for finder in sys.meta_path]
    assert extensions.index('mmcv._ext') > sys.meta_path.index(importlib.machinery.PathFinder)


def test_compiled_extension_wins(tmp_path):
    """With a real mmcv._ext the environment behaves as if the finder did not exist."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '_ext.py').write_text('compiled = True')
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path)!r})
spec = importlib.util.spec_from_file_location('finder', {mmcv_ext.__file__!r})
finder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(finder)
finder.install()
import mmcv._ext
print(mmcv._ext.compiled, 'torch' in sys.modules)
"""
    assert run(code) == 'True False'


@pytest.mark.skipif(HAS_COMPILED_OPS, reason='full mmcv')
def test_mmdet_needs_the_plugin_with_lite_and_gets_it():
    code = """
try:
    import mmdet.apis
except ModuleNotFoundError as error:
    print(error)
import deim_mmdet, mmdet.apis, mmdet.models, mmdet.datasets, mmdet.evaluation, mmcv.ops
"""
    environment = {**os.environ, 'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}
    assert run(code, env=environment) == "No module named 'mmcv._ext'"


@pytest.mark.skipif(not HAS_COMPILED_OPS, reason='mmcv-lite')
def test_full_mmcv_is_left_alone():
    import mmcv._ext

    assert mmcv._ext.__file__.endswith('.so')
    assert mmcv._ext is not _ext_torch


@pytest.mark.skipif(HAS_COMPILED_OPS, reason='full mmcv')
def test_missing_op_names_itself_and_the_cure():
    import torch
    from mmcv.ops import roi_align

    with pytest.raises(NotImplementedError, match="'roi_align_forward'") as error:
        roi_align(torch.rand(1, 1, 4, 4), torch.tensor([[0, 0, 0, 2, 2.0]]), 2)
    assert 'pip uninstall -y mmcv-lite' in str(error.value)
    assert 'mim install "mmcv>=2.0.0,<2.2.0"' in str(error.value)


def test_substitute_has_every_op_but_no_private_names():
    assert callable(_ext_torch.some_op_of_tomorrow)
    for name in ('__path__', '__wrapped__', '_private'):
        assert not hasattr(_ext_torch, name)
    with pytest.raises(NotImplementedError, match='deform_conv_forward'):
        _ext_torch.deform_conv_forward(1, key=2)


def test_compiler_questions_have_answers():
    assert 'mmcv-lite' in _ext_torch.get_compiler_version()
    assert _ext_torch.get_compiling_cuda_version() == 'not available'
