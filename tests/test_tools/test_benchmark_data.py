# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""tools/benchmark_loader.py, benchmark_annotations.py and benchmark_evaluation.py in small."""

import importlib.util
import logging
import re
import shutil
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from .conftest import TOOLS

CONFIG = str(TOOLS.parent / 'configs/deim/deim_dfine_hgnetv2-atto_digits.py')


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """The tools silence logging for the rest of their lives."""
    monkeypatch.setattr(logging, 'disable', lambda level: None)


def test_loader(tool, monkeypatch, capsys, tmp_path):
    benchmark = tool('benchmark_loader')
    monkeypatch.setattr(benchmark, 'BLOCK', 4)
    folder = tmp_path / 'pictures'
    options = ['--files', '8', '--picture-wh', '160', '120', '--folder', str(folder)]
    benchmark.main([CONFIG, '--images', '8', '--workers', '1', *options])
    printed = capsys.readouterr().out
    assert len(list((folder / 'images').glob('*.jpg'))) == 8
    for stage in ('mosaic', 'classic', 'plain'):
        total, rest = re.search(
            rf'stage {stage}: ([\d.]+) ms(.*?)(?:\n\n|$)', printed, re.S
        ).groups()
        steps = dict(re.findall(r'^    (\w+) +([\d.]+) ms', rest, re.M))
        assert {'LoadReadableImage', 'LoadAnnotations', 'DenseO2O', 'PackDetInputs'} <= set(steps)
        assert ('DenseMosaic' in steps) == (stage == 'mosaic')
        assert ('ZoomOut' in steps) == (stage != 'plain')
        # no transform counts what another one inside it spends
        assert sum(map(float, steps.values())) <= float(total) + 0.1
    assert re.search(r'1 workers: \d+ images/s', printed)


def test_clock_divides_nested_times(tool):
    from mmcv.transforms import BaseTransform

    def spend(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    class Inner(BaseTransform):
        def transform(self, results):
            spend(0.02)

    class Outer(BaseTransform):
        def __init__(self):
            self.transforms = [Inner()]

        def transform(self, results):
            spend(0.01)
            self.transforms[0]({})

    outer = Outer()
    clock = tool('benchmark_loader').TransformClock(SimpleNamespace(pipeline=[outer]))
    outer({})
    assert clock.seconds['Inner'] == pytest.approx(0.02, abs=0.005)
    assert clock.seconds['Outer'] == pytest.approx(0.01, abs=0.005)
    clock.stop()
    outer({})
    assert clock.seconds['Inner'] < 0.03


def test_peer_of_the_loader(tool, monkeypatch, capsys, tmp_path):
    pytest.importorskip('torchvision')
    benchmark = tool('benchmark_loader')
    monkeypatch.setattr(benchmark, 'BLOCK', 4)
    options = ['--files', '8', '--picture-wh', '160', '120', '--peer-python', sys.executable]
    benchmark.main([CONFIG, '--images', '4', '--workers', *options])
    assert len(re.findall(r'times the peer', capsys.readouterr().out)) == 3


def test_peer_that_does_not_start(tool, tmp_path):
    with pytest.raises(RuntimeError, match='It needs torch, torchvision and Pillow'):
        tool('benchmark_loader').Peer(shutil.which('false'), tmp_path, 64, 'pil')


def test_evaluation(tool, capsys):
    benchmark = tool('benchmark_evaluation')
    benchmark.main(['--images', '8', '--detections', '30', '--classes', '3'])
    printed = capsys.readouterr().out
    assert re.search(r'pycocotools +[\d.]+ s +results [\d.]+ s, engine [\d.]+ s', printed)
    average = float(re.search(r"'mAP': ([\d.]+)", printed).group(1))
    assert 0.1 < average < 0.9
    if importlib.util.find_spec('faster_coco_eval'):
        assert 'differ by 0.0e+00 at most' in printed


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_annotations(tool, tmp_path):
    benchmark = tool('benchmark_annotations')
    path = benchmark.write_annotations(tmp_path, 60, 300)
    answers = []
    answer = SimpleNamespace(send=answers.append)
    benchmark.measure('CheckedCocoDataset', str(path), True, 2, answer)
    (found,) = answers
    assert np.isfinite(list(found.values())).all() and found['together'] > found['alone'] > 50
