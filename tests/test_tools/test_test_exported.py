# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The command line of tools/test_exported.py."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from mmengine.config import Config

from deim_mmdet.deploy import ExportOptions
from tests.test_deploy.models import ATTO, config_of, detector_of, export, random_detector
from tests.test_models.parity import ROOT

HW = (96, 128)


@pytest.fixture
def config(tiny_digits):
    return str(tiny_digits(ROOT / f'configs/{ATTO}.py'))


@pytest.fixture
def checkpoint(tmp_path):
    detector = random_detector(config_of(ATTO), HW)
    torch.save(dict(state_dict=detector.state_dict()), tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


# Largest differences in pixels and score. Of random weights rounding decides which queries float16
# selects.
LIMITS = {
    'ONNX Runtime .*float32': (0.1, 1e-4),
    'ONNX Runtime .*float16': (128, 0.5),
    'OpenVINO .*float32': (0.1, 1e-4),
    'OpenVINO .*float16': (128, 0.5),
}


@pytest.mark.slow
def test_all_forms(tool, config, checkpoint, capsys, monkeypatch):
    """Without files, each form is exported and gets a row, with AP and its differences."""
    module = tool('test_exported')
    for name in module.FORMS:
        if 'float16' in name:  # random weights: rounding decides among equal scores
            form = [*module.FORMS[name], '--tolerance', '1e3', '1']
            monkeypatch.setitem(module.FORMS, name, form)
    module.main([config, '--checkpoint', checkpoint, '--hw', *map(str, HW), '--threads', '1'])
    lines = capsys.readouterr().out.splitlines()
    exported = [line for line in lines if line.endswith(' is exported')]
    assert exported == [f'{name} is exported' for name in module.FORMS]
    # a line of each as soon as it is known, then the table
    first, *told = [line for line in lines if re.match('PyTorch|ONNX Runtime|OpenVINO', line)]
    assert re.match(r'PyTorch: AP 0\.\d+$', first) and len(told) == len(LIMITS)
    rows = [line for line in lines if line.startswith('│') and 'float' in line]
    assert len(rows) == len(LIMITS)
    for row, line, (title, limits) in zip(rows, told, LIMITS.items()):
        assert re.search(title, row)
        assert re.match(f'{title}: AP .*, px .*, score .*, missing 0$', line)
        cells = [cell.strip() for cell in row.strip('│').split('│')]
        differences = float(cells[-4]), float(cells[-3])
        assert differences[0] < limits[0] and differences[1] < limits[1]
        if 'float32' in title:
            exact = differences
        else:  # it is another file
            assert differences[0] > exact[0] and differences[1] > exact[1]
        # at least the best ten of each of three images; none is missing
        assert int(cells[-2]) >= 30 and cells[-1] == '0'
    Path(checkpoint).write_text('no weights')
    with pytest.raises(SystemExit, match='error: .*a.pth is no PyTorch checkpoint'):
        module.main([config, '--checkpoint', checkpoint])


def test_bad_arguments(tool, config, tmp_path, capsys):
    main = tool('test_exported').main
    with pytest.raises(SystemExit, match='a.onnx is no config .* are CONFIG FILES, in this order'):
        (tmp_path / 'a.onnx').touch()
        main([str(tmp_path / 'a.onnx'), config])
    with pytest.raises(SystemExit):
        main([config])
    assert 'give files, or --checkpoint' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([config, '--checkpoint', 'a.pth', '--images', '0'])
    assert '--images must be at least 1, got 0' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='error: missing.pth: no such file'):
        main([config, '--checkpoint', 'missing.pth'])
    with pytest.raises(SystemExit, match='error: .*m.onnx: no such file'):
        main([config, str(tmp_path / 'm.onnx')])


def test_files_of_another_size_are_refused(tool, config, tmp_path):
    path = tmp_path / 'm.onnx'
    export(detector_of(ATTO), config_of(ATTO), path, ExportOptions((192, 192)))
    with pytest.raises(SystemExit, match='m.onnx takes images of 192 x 192, not 96 x 128'):
        tool('test_exported').main([config, str(path), '--hw', '96', '128'])


def test_size_of_the_test_pipeline(tool):
    config = Config.fromfile(ROOT / 'configs/yolov8/yolov8_n_8xb16-500e_coco.py')
    tool('test_exported').resize_tests(config, (320, 640))
    steps = {step.type: step for step in config.test_dataloader.dataset.pipeline}
    assert steps['Resize'].scale == (640, 320) and steps['Pad'].size == (640, 320)


def test_a_missing_backend_is_left_out(tool, tmp_path, monkeypatch, capsys):
    module = tool('test_exported')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr('subprocess.run', lambda command, **_: done)
    args = module.parse_args(['config.py', '--checkpoint', 'a.pth'])
    files = module.export_all(args, Config(), tmp_path)
    assert [path.name for path in files] == ['float32.onnx', 'float16.onnx']
    assert 'float16.xml is left out: openvino is missing' in capsys.readouterr().out
