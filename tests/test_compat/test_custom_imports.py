# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config

from deim_mmdet.compat.custom_imports import check_custom_imports

OURS = dict(optim_wrapper=dict(type='AnyDeviceAmpOptimWrapper'))


@pytest.mark.parametrize(
    'cfg',
    [
        {},
        dict(optim_wrapper=dict(type='OptimWrapper')),  # nothing of ours is used
        dict(OURS, custom_imports=dict(imports=['deim_mmdet'])),
        dict(OURS, custom_imports=dict(imports='deim_mmdet')),
        dict(OURS, custom_imports=dict(imports=['my_package', 'deim_mmdet.engine'])),
    ],
)
def test_accepted(cfg):
    check_custom_imports(Config(cfg))


@pytest.mark.parametrize('imports', [None, dict(imports=['my_package'])])
def test_lost_import_is_named_with_the_line_to_write(imports):
    cfg = Config(dict(custom_hooks=[dict(type='mmdet.CompileHook')], custom_imports=imports))
    mine = ", 'my_package'" if imports else ''
    with pytest.raises(ValueError, match=r'uses CompileHook .*does not import') as error:
        check_custom_imports(cfg)
    assert f"custom_imports = {{'imports': ['deim_mmdet'{mine}]" in str(error.value)


def test_a_child_config_that_replaces_the_list(tmp_path):
    (tmp_path / 'base.py').write_text(
        "custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)\n"
        "optim_wrapper = dict(type='AnyDeviceAmpOptimWrapper')\n"
    )
    (tmp_path / 'child.py').write_text(
        "_base_ = './base.py'\ncustom_imports = dict(imports=['json'])"
    )
    check_custom_imports(Config.fromfile(tmp_path / 'base.py'))
    with pytest.raises(ValueError, match='child.py'):
        check_custom_imports(Config.fromfile(tmp_path / 'child.py'))
