# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""tools/benchmark_loader.py, benchmark_annotations.py and benchmark_evaluation.py in small."""

import importlib.util
import logging
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mmcv.transforms import BaseTransform

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


def test_transforms_inside_others_are_found_once(tool):
    class Leaf(BaseTransform):
        def transform(self, results):
            return results

    class Holder(Leaf):
        def __init__(self, *transforms):
            self.stages = transforms

    shared = Leaf()
    outer = Holder(Holder(shared), shared)
    found = list(tool('benchmark_loader').find_all(SimpleNamespace(pipeline=[outer])))
    assert [type(transform) for transform in found] == [Holder, Holder, Leaf]


def test_a_pipeline_without_stages_has_one_table(tool, monkeypatch, capsys):
    """It is compared with the published transforms outside of Dense O2O."""
    benchmark = tool('benchmark_loader')
    monkeypatch.setattr(benchmark, 'BLOCK', 2)
    options = ['--images', '2', '--files', '4', '--picture-wh', '160', '120', '--workers']
    benchmark.main([str(TOOLS.parent / 'configs/dn_detr/dn-detr_r50_8xb2-50e_coco.py'), *options])
    assert re.findall(r'^stage (\w+)', capsys.readouterr().out, re.M) == ['classic']


def test_fewer_files_than_a_batch(tool, monkeypatch):
    benchmark = tool('benchmark_loader')
    monkeypatch.setattr(benchmark, 'BLOCK', 2)
    options = ['--images', '2', '--files', '2', '--picture-wh', '160', '120', '--workers', '0']
    with pytest.raises(
        SystemExit, match='2 files do not fill a batch of 8: make more with --files'
    ):
        benchmark.main([CONFIG, *options])


def test_peer_of_the_loader(tool, monkeypatch, capsys, tmp_path):
    pytest.importorskip('torchvision')
    benchmark = tool('benchmark_loader')
    monkeypatch.setattr(benchmark, 'BLOCK', 4)
    options = ['--files', '8', '--picture-wh', '160', '120', '--peer-python', sys.executable]
    benchmark.main([CONFIG, '--images', '4', '--workers', *options])
    assert len(re.findall(r'times the peer', capsys.readouterr().out)) == 3


def test_peer_that_does_not_start(tool, tmp_path):
    with pytest.raises(ChildProcessError, match='It needs torch, torchvision and Pillow'):
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


def test_without_any_engine(tool, monkeypatch, capsys):
    benchmark = tool('benchmark_evaluation')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='no engine to time: pip install faster-coco-eval pycoco'):
        benchmark.main([])
    assert 'pycocotools is not installed' in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_annotations(tool, tmp_path):
    benchmark = tool('benchmark_annotations')
    path = benchmark.write_annotations(tmp_path, 60, 300)
    found = benchmark.measure('CheckedCocoDataset', str(path), True, 2)
    assert np.isfinite(list(found.values())).all() and found['together'] > found['alone'] > 50
