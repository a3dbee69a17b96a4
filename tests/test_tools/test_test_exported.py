# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The command line of tools/test_exported.py."""

import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from mmengine.config import Config

from tests.test_deploy.models import ATTO, config_of, random_detector
from tests.test_models.parity import ROOT


@pytest.fixture
def config(tiny_digits):
    return str(tiny_digits(ROOT / f'configs/{ATTO}.py'))


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(dict(state_dict=random_detector(config_of(ATTO)).state_dict()), tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


@pytest.mark.slow
def test_all_forms(tool, config, checkpoint, capsys, monkeypatch):
    """Without files, each form is exported and gets a row, with AP and its differences."""
    module = tool('test_exported')
    monkeypatch.setattr(
        module, 'FORMS', {name: module.FORMS[name] for name in module.FORMS if 'float32' in name}
    )
    module.main([config, '--checkpoint', checkpoint, '--hw', '96', '128', '--threads', '1'])
    rows = [line for line in capsys.readouterr().out.splitlines() if 'float32' in line]
    titles = ['ONNX Runtime', 'OpenVINO']
    assert [title in row for title, row in zip(titles, rows)] == [True, True] and len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.strip('│').split('│')]
        assert float(cells[-4]) < 0.1 and float(cells[-3]) < 1e-4  # pixels, score
        # at least the best ten of each of three images; none is missing
        assert int(cells[-2]) >= 30 and cells[-1] == '0'
    with pytest.raises(SystemExit, match='error: export failed:.*\n?.*missing.pth: no such file'):
        module.main([config, '--checkpoint', 'missing.pth'])


def test_bad_arguments(tool, config, tmp_path, capsys):
    main = tool('test_exported').main
    with pytest.raises(SystemExit):
        main([config])
    assert 'give files, or --checkpoint' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='error: .*m.onnx: no such file'):
        main([config, str(tmp_path / 'm.onnx')])


def test_size_of_the_test_pipeline(tool):
    config = Config.fromfile(ROOT / 'configs/yolov8/yolov8_n_8xb16-500e_coco.py')
    tool('test_exported').resize_tests(config, (320, 640))
    steps = {step.type: step for step in config.test_dataloader.dataset.pipeline}
    assert steps['Resize'].scale == (640, 320) and steps['Pad'].size == (640, 320)
