# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""tools/export.py --int8."""

from types import SimpleNamespace

import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import numpy as np
from PIL import Image

from deim_mmdet import deploy
from deim_mmdet.deploy import Detector, evaluation, int8_report, sample_images
from tests.test_tools.test_export import CONFIG, checkpoint, tool  # noqa: F401  fixtures


@pytest.fixture
def folder(tmp_path):
    """Seven images, one in a folder below, and a file that is none."""
    folder = tmp_path / 'images'
    (folder / 'below').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(7):
        name = folder / ('below' if i == 3 else '.') / f'{i}.PNG'
        Image.fromarray(rng.integers(0, 256, (40 + i, 64, 3), np.uint8)).save(name)
    (folder / 'notes.txt').write_text('seven images')
    return folder


def run(tool, checkpoint, folder, out, *arguments):  # noqa: F811
    paths = ['--calibration-images', str(folder), '--out', str(out)]
    tool.main([CONFIG, str(checkpoint), '--int8', *paths, *arguments])


def test_report(tool, checkpoint, folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Without a test set: detections on images that were not calibrated on."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / 'out.onnx'
    arguments = ['--fp16', '--tolerance', '1e3', '1', '--calibration-count', '4']
    run(tool, checkpoint, folder, out, *arguments)
    text = capsys.readouterr().out
    assert 'largest difference from PyTorch' in text
    assert '53 layers in int8, calibrated on 4 images' in text
    assert 'int8 against float on 3 other images of the folder: ' in text
    assert 'detections found again (IoU 0.5, half the score threshold) and' in text
    assert 'int8, opset 19' in text
    assert Detector(out).metadata.precision == 'int8'


def test_ap(tool, checkpoint, folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    """With a test set: AP of both, and nothing is written where it falls too far."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample_images, 'has_test_set', lambda config: True)
    aps = {'float32': 0.714, 'int8': 0.694}

    def evaluate(config, run):
        ap = aps[run.metadata.precision]
        return {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': ap + 0.1, 'coco/bbox_mAP_75': ap}

    monkeypatch.setattr(evaluation, 'evaluate', evaluate)
    monkeypatch.setattr(evaluation, 'predictor', lambda detector: detector)
    drop = 'coco/bbox_mAP falls by 2.0 points, more than --max-ap-drop 1.9: nothing was written'
    with pytest.raises(SystemExit, match=drop) as stopped:
        run(tool, checkpoint, folder, 'out.onnx', '--max-ap-drop', '1.9')
    assert list(tmp_path.glob('out*')) == []
    text = str(stopped.value)
    assert 'coco/bbox_mAP on the test set: 71.4 before, 69.4 in int8 (-2.0)' in text
    assert 'coco/bbox_mAP_50 on the test set: 81.4 before, 79.4 in int8 (-2.0)' in text
    # as far as that it may fall
    files = [SimpleNamespace(metadata=SimpleNamespace(precision=name)) for name in aps]
    assert '(-2.0)' in int8_report.ap_report(*files, None, 2.1)


def test_bad_images(tool, checkpoint, folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'notes.txt').write_text('none')
    before = sorted(tmp_path.rglob('*'))
    export_onnx = deploy.export_onnx
    monkeypatch.setattr(deploy, 'export_onnx', None, raising=False)  # refused before
    with pytest.raises(SystemExit, match='error: --calibration-images missing: no such folder'):
        run(tool, checkpoint, 'missing', 'out.onnx')
    with pytest.raises(SystemExit, match='error: --calibration-images empty holds no images'):
        run(tool, checkpoint, 'empty', 'out.onnx')
    with pytest.raises(SystemExit, match='error: --calibration-count must be at least 1, got 0'):
        run(tool, checkpoint, folder, 'out.onnx', '--calibration-count', '0')
    with pytest.raises(SystemExit, match='error: --max-ap-drop needs the test set of the config'):
        run(tool, checkpoint, folder, 'out.onnx', '--max-ap-drop', '1')
    with pytest.raises(SystemExit, match='error: --int8 is for onnxruntime and tensorrt'):
        run(tool, checkpoint, folder, 'out.xml', '--backend', 'openvino')
    monkeypatch.setattr(deploy, 'export_onnx', export_onnx)
    (folder / '2.PNG').write_text('no image')
    with pytest.raises(SystemExit, match='error: .*2.PNG cannot be read as an image'):
        run(tool, checkpoint, folder, 'out.onnx')
    assert sorted(tmp_path.rglob('*')) == before
