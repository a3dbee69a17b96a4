# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIM = ('configs', 'tools', 'model-index.yml')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the source tree, as a clone has it."""
    tree = tmp_path_factory.mktemp('source') / 'deim_mmdet'
    left_out = shutil.ignore_patterns(
        '.*', 'work_dirs', 'data', 'build', 'dist', '*.egg-info', '__pycache__', 'fixtures'
    )
    shutil.copytree(ROOT, tree, ignore=left_out)
    return tree


def build(tree, kind, folder):
    """What pip calls in a source tree; returns the file that it makes."""
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))'
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=tree, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return folder / process.stdout.split()[-1]


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build(source, 'wheel', tmp_path_factory.mktemp('wheel'))


def expected_mim_files(tree):
    files = [path for name in ('configs', 'tools') for path in (tree / name).rglob('*')]
    files = [str(path.relative_to(tree)) for path in files if path.is_file()]
    return {name for name in files if '__pycache__' not in name} | {'model-index.yml'}


def names_in(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        return {n[len(folder) :] for n in archive.namelist() if n.startswith(folder)}


def test_wheel_has_what_mim_looks_for(source, wheel):
    assert names_in(wheel, 'deim_mmdet/.mim/') == expected_mim_files(source)


def test_wheel_leaves_openmmlab_and_torch_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith('/METADATA')]
        lines = archive.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith('Requires-Dist') and 'extra' not in line]
    names = {re.match(r'Requires-Dist: ([\w-]+)', line).group(1).lower() for line in required}
    assert 'scipy' in names
    assert not names & {'torch', 'torchvision', 'mmcv', 'mmcv-lite', 'mmengine', 'mmdet'}


def test_wheel_of_the_sdist_is_the_same(source, wheel, tmp_path):
    sdist = build(source, 'sdist', tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / 'unpacked')
    (tree,) = (tmp_path / 'unpacked').iterdir()
    again = build(tree, 'wheel', tmp_path)
    assert names_in(again, 'deim_mmdet/') == names_in(wheel, 'deim_mmdet/')
    for name in ('README.md', 'LICENSE', 'CHANGELOG.md', 'requirements.txt', 'Makefile'):
        assert (tree / name).is_file()


def test_editable_install_links_and_repeats(source, tmp_path):
    for _ in range(2):
        build(source, 'editable', tmp_path)
    for name in MIM:
        link = source / 'deim_mmdet' / '.mim' / name
        assert link.is_symlink() and link.resolve() == (source / name).resolve()
    # the links do not find their way into a wheel
    assert build(source, 'wheel', tmp_path).is_file()
    assert (source / 'deim_mmdet' / '.mim' / 'configs').is_symlink()


def test_requirements_are_exact():
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'[\w-]+==[\w.]+', line) for line in pins)
    wanted = {'torch==2.13.0', 'mmcv-lite==2.1.0', 'mmengine==0.10.7', 'mmdet==3.3.0'}
    assert wanted <= set(pins)
    assert not any(line.startswith(('torchvision', 'mmcv==')) for line in pins)


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_second_make_has_nothing_to_install(tmp_path):
    for name in ('Makefile', 'requirements.txt', 'requirements-deploy.txt', 'setup.py'):
        shutil.copy(ROOT / name, tmp_path)
    make = ['make', '--dry-run', 'test']
    first = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True).stdout
    assert 'pip install -r requirements.txt' in first
    assert 'pip install -r requirements-deploy.txt' in first
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv' / 'installed').touch()
    (tmp_path / '.venv' / 'installed-deploy').touch()
    second = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True).stdout
    assert 'pip' not in second and "pytest tests/test_deploy -m 'not slow'" in second
