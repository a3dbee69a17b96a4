# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The command line of tools/export.py."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmengine.config import Config

from deim_mmdet.deploy import Detector
from deim_mmdet.deploy.sample_images import draw_scene
from tests.test_deploy.models import ATTO, config_of, random_detector
from tests.test_models.small_dn_detr import small_model

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / f'configs/{ATTO}.py')


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('export_tool', ROOT / 'tools/export.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'atto.pth'
    meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
    torch.save(dict(state_dict=random_detector(config_of(ATTO)).state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Of the drawn scenes, those in which float16 leaves the queries that are selected the same: of
    random weights rounding decides among equal scores."""
    folder = tmp_path_factory.mktemp('scenes')
    paths = [str(folder / f'{i}.png') for i in (0, 2)]
    for path, seed in zip(paths, (0, 2)):
        Image.fromarray(draw_scene((192, 192), seed)[..., ::-1]).save(path)
    return paths


def test_export(tool, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data set here: scenes are drawn
    out = tmp_path / 'atto.onnx'
    tool.main([CONFIG, str(checkpoint), '--out', str(out), '--dynamic-batch'])
    text = capsys.readouterr().out
    assert 'largest difference from PyTorch on 4 drawn scenes: ' in text
    assert 'images: float32 (batch, 3, 192, 192)' in text
    assert 'boxes: float32 (batch, 100, 4)' in text and 'labels: int64 (batch, 100)' in text
    assert sorted(tmp_path.iterdir()) == [out]
    # what disagrees is not written
    with pytest.raises(SystemExit, match='that is more than 0 px or 0: .* was not written'):
        tool.main([CONFIG, str(checkpoint), '--out', 'new.onnx', '--tolerance', '0', '0'])
    assert sorted(tmp_path.iterdir()) == [out]


def test_size_of_the_test_pipeline(tool, checkpoint, tmp_path, capsys, monkeypatch):
    """Changes to the config count, and its pipeline counts more than image_hw."""
    monkeypatch.chdir(tmp_path)
    scale = 'test_dataloader.dataset.pipeline.2.scale=(160,100)'
    changes = ['--cfg-options', 'image_hw=(64,64)', scale]
    tool.main([CONFIG, str(checkpoint), '--out', 'a.onnx', *changes])
    assert 'images: float32 (1, 3, 128, 160)' in capsys.readouterr().out


def test_dn_detr_as_on_coco(tool, tmp_path, capsys, monkeypatch):
    """The test pipeline as it ships, with a small network: of its size, and with a warning."""
    monkeypatch.chdir(tmp_path)
    config = config_of('dn_detr/dn-detr_r50_8xb2-50e_coco')
    config.model = small_model('DNDETR')
    config.dump('small.py')
    small = random_detector(Config(dict(model=config.model)))
    torch.save(dict(state_dict=small.state_dict()), 'small.pth')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)).save('a.png')
    tool.main(['small.py', 'small.pth', '--image', 'a.png'])
    text = capsys.readouterr().out
    assert 'images: float32 (1, 3, 800, 1344)' in text
    assert 'warning: images of this config keep their aspect' in text
    assert 'DNDETR masks padding, its graph takes it for image' in text
    assert Detector('small.onnx').metadata.keep_ratio


@pytest.mark.parametrize('precision', ['float32', 'float16'])
def test_openvino(tool, checkpoint, scenes, tmp_path, capsys, monkeypatch, precision):
    pytest.importorskip('openvino')
    monkeypatch.chdir(tmp_path)
    command = [CONFIG, str(checkpoint), '--backend', 'openvino', '--out', 'atto.xml']
    if precision == 'float16':
        command += ['--fp16', '--image', *scenes]
    tool.main(command)
    text = capsys.readouterr().out
    compared = ', '.join(scenes) if precision == 'float16' else '4 drawn scenes'
    assert text.index(f'largest difference from PyTorch on {compared}: ') < text.index('atto.xml')
    assert f'nodes, {precision}, opset 17' in text
    assert sorted(os.listdir(tmp_path)) == ['atto.bin', 'atto.xml']
    assert Detector('atto.xml').metadata.precision == precision
    with pytest.raises(SystemExit, match='atto.(bin|xml) exists'):
        tool.main(command)
    tool.main([*command, '--overwrite'])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match='that is more than 0 px or 0: .* was not written'):
        tool.main([*command, '--overwrite', '--tolerance', '0', '0'])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_interrupted(tool, checkpoint, tmp_path, monkeypatch, backend):
    """Ctrl-C in the middle leaves nothing behind, neither there nor where temporary files go."""
    pytest.importorskip(backend)

    def interrupt(*args):
        raise KeyboardInterrupt

    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    monkeypatch.setattr('deim_mmdet.deploy.parity.compare', interrupt)
    out = tmp_path / f'atto{tool.ENDINGS[backend][0]}'
    with pytest.raises(SystemExit, match='130'):
        tool.main([CONFIG, str(checkpoint), '--backend', backend, '--out', str(out)])
    assert [path.name for path in tmp_path.rglob('*')] == ['temporary']


# fmt: off
BAD = [
    (['--backend', 'openvino'],        r'--backend openvino writes files \*.xml, got out.onnx'),
    (['--shapes', 'batch=1,2,4'],      '--shapes is for --backend tensorrt, not onnxruntime'),
    (['--int8'],                       '--int8 needs --calibration-images FOLDER'),
    (['--calibration-images', 'some'], '--calibration-images is for --int8'),
    (['--max-ap-drop', '0'],           '--max-ap-drop is for --int8'),
    (['--float-layers', '/neck/*'],    '--float-layers is for --int8'),
    (['--hw', '100', '100'],           'multiples of 32, got 100 x 100: take 128 x 128'),
    (['--resize', '--original-size'],  'exclude each other'),
    (['--candidates'],                 'DFINE finds objects once and has no candidates'),
    (['--opset', '9'],                 'opset must be from 17 to 20'),
    (['--image', 'missing.jpg'],       'missing.jpg: no such file'),
    (['--score-threshold', '7'],       r'score_threshold must be in \[0, 1\], .* got 7'),
]
# fmt: on


@pytest.mark.parametrize(('arguments', 'message'), BAD)
def test_bad_arguments(tool, checkpoint, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        tool.main([CONFIG, str(checkpoint), '--out', 'out.onnx', *arguments])
    assert list(tmp_path.iterdir()) == []


def test_bad_files(tool, checkpoint, tmp_path):
    with pytest.raises(SystemExit, match='error: .*missing.pth: no such file'):
        tool.main([CONFIG, str(tmp_path / 'missing.pth')])
    with pytest.raises(SystemExit, match='atto.pth is no config .* are CONFIG CHECKPOINT, in this'):
        tool.main([str(checkpoint), CONFIG])
    taken = tmp_path / 'taken.onnx'
    taken.write_text('mine')
    with pytest.raises(SystemExit, match='error: .*taken.onnx exists'):
        tool.main([CONFIG, str(checkpoint), '--out', str(taken)])
    with pytest.raises(SystemExit, match='is the input itself'):
        tool.main([CONFIG, str(taken), '--out', str(taken), '--overwrite'])
    with pytest.raises(SystemExit, match='error: nothing can be written to .*taken.onnx is a file'):
        tool.main([CONFIG, str(checkpoint), '--out', str(taken / 'new.onnx')])
    assert taken.read_text() == 'mine'


# fmt: off
NO_CHECKPOINTS = [
    (b'',                       'is empty'),
    (b'some text, no weights',  "is no PyTorch checkpoint: it starts with b'some text"),
    (b'\xff\xd8\xff\xe0JFIF',   r"is no PyTorch checkpoint: .*JFIF'. Give the weights of"),
    (b'zip',                    'is no PyTorch checkpoint: it is an archive of other files'),
]
# fmt: on


@pytest.mark.parametrize(('content', 'message'), NO_CHECKPOINTS)
def test_no_checkpoint(tool, tmp_path, content, message):
    path = tmp_path / 'other.pth'
    path.write_bytes(content)
    if content == b'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('other/notes.txt', 'none')
    with pytest.raises(SystemExit, match=f'^error: {path} {message}'):
        tool.main([CONFIG, str(path)])


def test_weights_from_elsewhere(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = tool.parse_args([CONFIG, 'https://somewhere/of/theirs/weights.pth'])
    assert tool.output_path(args) == Path('weights.onnx')


def test_wrong_arguments_are_told_at_once():
    """Before PyTorch is imported, which takes seconds."""
    code = """
import sys
sys.modules.update(torch=None, mmdet=None)
sys.argv = ['export.py', 'missing.py', 'missing.pth']
import export
export.main()
"""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT / 'tools', capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, 'error: missing.py: no such file\n')


def test_missing_packages_name_the_extra(tool, checkpoint, tmp_path, monkeypatch):
    import deim_mmdet.deploy as deploy

    def absent(name, package=None):
        raise ModuleNotFoundError("No module named 'onnx'", name='onnx')

    monkeypatch.setattr('importlib.import_module', absent)
    with pytest.raises(ImportError, match=r"onnx is missing.*pip install '\.\[deploy\]'"):
        deploy.__getattr__('export_onnx')


def test_a_missing_backend_names_the_extra(tool, checkpoint, tmp_path, monkeypatch):
    """Before the work begins."""
    monkeypatch.setitem(sys.modules, 'openvino', None)
    out = ['--backend', 'openvino', '--out', str(tmp_path / 'm.xml')]
    with pytest.raises(SystemExit, match=r"openvino is missing: .*'\.\[deploy\]'"):
        tool.main([CONFIG, str(checkpoint), *out])
    assert list(tmp_path.iterdir()) == []


# ---- TensorRT ------------------------------------------------------------------------------------


def test_engine_for_the_t4(tool, checkpoint, scenes, tmp_path, capsys, monkeypatch):
    """One command on a machine without a GPU."""
    pytest.importorskip('tensorrt_rtx_bindings')
    monkeypatch.chdir(tmp_path)
    options = ['--backend', 'tensorrt', '--fp16', '--compute-capability', '7.5']
    dynamic = ['--dynamic-batch', '--shapes', 'batch=1,2,4', '--image', *scenes]
    tool.main([CONFIG, str(checkpoint), '--out', 't4.engine', *options, *dynamic])
    text = capsys.readouterr().out
    assert f'largest difference from PyTorch on {", ".join(scenes)}: ' in text
    assert 'the graph was compared; the engine was not run, which takes a GPU of compute' in text
    assert 'TensorRT-RTX 1.' in text and ', compute capability 7.5\n' in text
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['t4.engine', 't4.engine.json']


T4 = ['--compute-capability', '7.5', '--fp16']
# fmt: off
BAD_TARGETS = [
    (['--compute-capability', 'T4'],                            "two numbers as 7.5 .* got 'T4'"),
    (['--compute-capability', '5.2'],                           'builds for .* 7.5, .*, got 5.2'),
    (['--compute-capability', '7.5', '--flavour', 'tensorrt'],  'TensorRT is missing'),
    (['--compute-capability', '7.5'],                           'export with --fp16, or build'),
    (['--compute-capability', '7.5', '--timing-cache', 'c'],    'leave --timing-cache out'),
    ([*T4, '--shapes', 'batch=1,2,4'],                          'none, every size is fixed'),
    ([*T4, '--dynamic-batch', '--shapes', 'width=32,64,96'],    "no dimension 'width' .* batch"),
    ([*T4, '--dynamic-batch', '--shapes', 'batch=4,2,8'],       'batch must be rising'),
]
# fmt: on


@pytest.mark.parametrize(('arguments', 'message'), BAD_TARGETS)
def test_bad_targets(tool, checkpoint, tmp_path, monkeypatch, arguments, message):
    """Before the graph is made."""
    pytest.importorskip('tensorrt_rtx_bindings')
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    monkeypatch.setitem(sys.modules, 'tensorrt_bindings', None)
    monkeypatch.setattr('deim_mmdet.deploy.export_onnx', None, raising=False)
    monkeypatch.chdir(tmp_path)
    arguments = ['--backend', 'tensorrt', '--out', 'out.engine', *arguments]
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        tool.main([CONFIG, str(checkpoint), *arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('text', ['batch', 'batch=1,x', 'batch=1,2', 'batch=1,2,3,4'])
def test_bad_shapes(tool, text, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['config.py', 'a.pth', '--shapes', text])
    assert f"must be NAME=MIN,OPT,MAX, three whole numbers, as batch=1,4,8; got '{text}'" in (
        capsys.readouterr().err
    )
