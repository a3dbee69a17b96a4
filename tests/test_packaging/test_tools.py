# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How programs that start without the plugin get it, with the toy detector of ``toy_config``."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest

import deim_mmdet.run
from deim_mmdet.compat import mmcv_ext
from tests.test_packaging.test_distributions import build, source, wheel  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
MMDET_TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'

only_lite = pytest.mark.skipif(
    importlib.util.find_spec('mmcv._ext').origin != str(mmcv_ext.SUBSTITUTE), reason='full mmcv'
)
needs_mim = pytest.mark.skipif(
    importlib.util.find_spec('mim') is None or importlib.util.find_spec('pandas') is None,
    reason='mim is not installed',
)


def run(*command, path=(), cwd=None, **environment):
    """Runs a program on the CPU that finds this package only where `path` says."""
    environment = {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(map(str, path)),
        **environment,
    }
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=cwd or tempfile.gettempdir(),  # `python -c` looks for modules where it stands
        capture_output=True,
        text=True,
        timeout=280,
    )


def succeeded(process):
    assert process.returncode == 0, process.stdout[-1500:] + process.stderr[-3000:]
    return process.stdout + process.stderr


# ---- importing ------------------------------------------------------------------------------


def test_import_needs_no_deployment_package():
    code = """
import importlib.abc, sys


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'mmdeploy', 'onnx', 'onnxruntime', 'tensorrt', 'torchvision'}:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Refuse())
import deim_mmdet
print(deim_mmdet.__version__)
"""
    assert succeeded(run(sys.executable, '-c', code, path=[ROOT])).startswith('0.')


# ---- python -m deim_mmdet.run ---------------------------------------------------------------


def test_unknown_tool_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no tool 'trian'.*analysis_tools/get_flops.py"):
        deim_mmdet.run.find_mmdet_tool('trian')


def test_tool_is_mmdets_own_and_gets_its_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(
        deim_mmdet.run.runpy,
        'run_path',
        lambda path, run_name: calls.append((path, run_name, sys.argv[1:])),
    )
    monkeypatch.setattr(sys, 'argv', ['run'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    deim_mmdet.run.run_mmdet_tool('analysis_tools/get_flops', ['a', '--b'])
    tool = MMDET_TOOLS / 'analysis_tools' / 'get_flops.py'
    assert calls == [(str(tool), '__main__', ['a', '--b'])]
    assert sys.path[0] == str(tool.parent)


@pytest.mark.parametrize(
    ('cpu_rank', 'own_wrapper', 'added'),
    [(False, False, []), (True, True, []), (True, False, ['--cfg-options'])],
)
def test_cpu_ranks_get_a_model_wrapper(tmp_path, monkeypatch, cpu_rank, own_wrapper, added):
    config = tmp_path / 'config.py'
    config.write_text("model_wrapper_cfg = dict(type='Mine')\n" if own_wrapper else 'a = 1\n')
    monkeypatch.setattr(deim_mmdet.run, '_is_cpu_rank', lambda: cpu_rank)
    monkeypatch.setattr(deim_mmdet.run.runpy, 'run_path', lambda *args, **kwargs: None)
    monkeypatch.setattr(sys, 'argv', ['train'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    deim_mmdet.run.run_mmdet_tool('train', [str(config)])
    assert sys.argv[2:3] == added


def test_a_config_that_lost_the_plugin_stops_before_it_runs(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "optim_wrapper = dict(type='AnyDeviceAmpOptimWrapper')\n"
        "custom_imports = dict(imports=['json'])\n"
    )
    with pytest.raises(ValueError, match='replaces the list of its base'):
        deim_mmdet.run.run_mmdet_tool('train', [str(config)])


# ---- the autoload distribution --------------------------------------------------------------


@pytest.fixture(scope='module')
def autoload(source, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp('autoload')
    built = build(source / 'tools' / 'autoload', 'wheel', folder)
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


@only_lite
def test_autoload_makes_mmdet_importable_and_imports_nothing(autoload):
    code = 'import mmdet.apis, sys; print("deim_mmdet" in sys.modules)'
    process = run(sys.executable, '-c', code, path=[autoload, ROOT])
    assert succeeded(process).endswith('False\n')
    process = run(
        sys.executable,
        '-c',
        code,
        path=[autoload, ROOT],
        TORCH_DEVICE_BACKEND_AUTOLOAD='0',
    )
    assert "No module named 'mmcv._ext'" in process.stderr


def test_autoload_never_breaks_torch(autoload, tmp_path):
    """Neither without deim_mmdet's files nor with a broken finder."""
    package = tmp_path / 'deim_mmdet'
    (package / 'compat').mkdir(parents=True)
    (package / '__init__.py').write_text('')
    (package / 'compat' / 'mmcv_ext.py').write_text('raise RuntimeError\n')
    code = 'import torch, deim_mmdet; print(deim_mmdet.__file__)'
    process = run(sys.executable, '-c', code, path=[autoload, tmp_path])
    assert succeeded(process).strip() == str(package / '__init__.py')


# ---- mim and mmdet's own programs -----------------------------------------------------------

TOY_CONFIG = """
custom_imports = dict(imports=['deim_mmdet'], allow_failed_imports=False)
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=4),
    bbox_head=dict(
        type='RetinaHead', num_classes=1, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[4, 8, 16, 32])),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10))
dataset = dict(
    type='CocoDataset', data_root={root!r}, ann_file='annotations.json',
    data_prefix=dict(img='.'), metainfo=dict(classes=('square',)),
    pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')])
train_dataloader = dict(
    batch_size=1, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset)
test_dataloader = dict(
    batch_size=1, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, test_mode=True))
test_evaluator = dict(type='CocoMetric', ann_file={root!r} + '/annotations.json')
optim_wrapper = dict(type='AnyDeviceAmpOptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
test_cfg = dict(type='TestLoop')
"""


@pytest.fixture(scope='module')
def toy_config(tmp_path_factory):
    """A RetinaNet of a few thousand weights and two pictures with a square each."""
    root = tmp_path_factory.mktemp('toy')
    image = np.full((64, 64, 3), 30, dtype=np.uint8)
    image[10:40, 20:50] = 200
    images, annotations = [], []
    for index in range(2):
        cv2.imwrite(str(root / f'{index}.png'), image)
        images.append(dict(id=index, file_name=f'{index}.png', width=64, height=64))
        box = dict(bbox=[20, 10, 30, 30], area=900, iscrowd=0)
        annotations.append(dict(id=index + 1, image_id=index, category_id=1, **box))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='square')])
    (root / 'annotations.json').write_text(json.dumps(content))
    config = root / 'toy.py'
    config.write_text(TOY_CONFIG.format(root=str(root)))
    return config


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):  # noqa: F811
    """The wheel, unpacked as `pip install .` does it."""
    folder = tmp_path_factory.mktemp('installed')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


MIM = (sys.executable, '-c', 'from mim.__main__ import cli; cli()')


@needs_mim
@pytest.mark.slow
def test_mim_trains_and_tests_the_installed_plugin(installed, toy_config, tmp_path):
    arguments = (toy_config, '--gpus', '0', '--work-dir', tmp_path)
    process = run(*MIM, 'train', 'deim_mmdet', *arguments, path=[installed], cwd=tmp_path)
    assert str(installed / 'deim_mmdet/.mim/tools/train.py') in succeeded(process)
    arguments = (*arguments, '--checkpoint', tmp_path / 'epoch_1.pth')
    process = run(*MIM, 'test', 'deim_mmdet', *arguments, path=[installed], cwd=tmp_path)
    assert 'coco/bbox_mAP' in succeeded(process)


@pytest.mark.slow
def test_two_cpu_processes_train_and_resume(installed, toy_config, tmp_path):
    launcher = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    command = (*launcher, installed / 'deim_mmdet/.mim/tools/train.py', toy_config)
    options = ('--launcher', 'pytorch', '--work-dir', tmp_path)
    succeeded(run(*command, *options, path=[installed]))
    more = ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1' in succeeded(run(*command, *options, *more, path=[installed]))
    assert (tmp_path / 'epoch_2.pth').is_file()


@only_lite
@pytest.mark.slow
def test_mmdets_own_programs(autoload, toy_config, tmp_path):
    """train.py has enough in custom_imports; test.py and spawned workers need the autoload."""
    train = (sys.executable, MMDET_TOOLS / 'train.py', toy_config, '--work-dir', tmp_path)
    succeeded(run(*train, path=[ROOT], TORCH_DEVICE_BACKEND_AUTOLOAD='0'))
    test = (sys.executable, MMDET_TOOLS / 'test.py', toy_config, tmp_path / 'epoch_1.pth')
    test = (*test, '--work-dir', tmp_path)
    process = run(*test, path=[ROOT], TORCH_DEVICE_BACKEND_AUTOLOAD='0')
    assert "No module named 'mmcv._ext'" in process.stderr
    spawn = ('--cfg-options', 'env_cfg.mp_cfg.mp_start_method=spawn')
    assert 'coco/bbox_mAP' in succeeded(run(*test, *spawn, path=[autoload, ROOT]))
