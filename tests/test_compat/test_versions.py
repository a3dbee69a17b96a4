# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from deim_mmdet.compat import versions


@pytest.mark.parametrize(
    ('version', 'at_least', 'below', 'fit'),
    [
        ('2.1.0', '2.0', '2.2', True),
        ('2.2.0', '2.0', '2.2', False),  # the upper bound is excluded
        ('2.0', '2.0.0', None, True),  # missing numbers are zeros
        ('2.13.0+cpu', '2.9', None, True),  # numbers, not strings, and no local part
        ('2.0.0rc4', '2.0', '2.2', True),
        ('1.13.1', '2.0', None, False),
    ],
)
def test_fits(version, at_least, below, fit):
    assert versions.fits(version, at_least, below) is fit


def test_this_environment_fits():
    versions.check_versions()


def test_all_problems_are_told_at_once(monkeypatch):
    installed = {'torch': '1.13.1', 'mmcv': '2.2.0', 'mmengine': '0.10.7'}

    def version(name):
        if name not in installed:
            raise versions.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    def import_module(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(versions.importlib.metadata, 'version', version)
    monkeypatch.setattr(versions.importlib, 'import_module', import_module)
    with pytest.raises(ImportError) as error:
        versions.check_versions()
    message = str(error.value)
    assert 'torch>=2.0 is needed, found 1.13.1' in message
    assert 'mmcv>=2.0,<2.2 is needed, found 2.2.0' in message
    assert 'mmdet>=3.2,<4.0 is needed, found none' in message
    assert 'mmengine' not in message
    # full mmcv is there, so the command keeps that flavour
    assert 'pip install "torch>=2.0" "mmcv>=2.0,<2.2" "mmdet>=3.2,<4.0"' in message


def test_without_mmcv_the_lite_flavour_is_offered(monkeypatch):
    monkeypatch.setattr(
        versions, 'REQUIRED', (('mmcv_none', ('mmcv_none',), '2.0', '2.2', 'mmcv-lite'),)
    )
    with pytest.raises(ImportError, match=r'pip install "mmcv-lite>=2.0,<2.2"\nmmcv-lite is pure'):
        versions.check_versions()


def test_a_package_without_metadata_is_asked_itself(tmp_path, monkeypatch):
    (tmp_path / 'built_by_hand.py').write_text("__version__ = '3.3.0'")
    monkeypatch.syspath_prepend(tmp_path)
    assert versions.installed_version('built_by_hand', ('built-by-hand',)) == '3.3.0'
