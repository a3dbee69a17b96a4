# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from tests.test_benchmark.conftest import small_dfine  # noqa: F401

STEP = ('--size', '96', '--batch-size', '2', '--objects', '3', '--steps', '1', '--device', 'cpu')


@pytest.fixture
def small(small_dfine, tmp_path):  # noqa: F811
    path = tmp_path / 'small.py'
    small_dfine.dump(str(path))
    return str(path)


def test_shares_of_a_step(tool, small, capsys):
    tool('benchmark_training').main([small, *STEP, '--skip-loader'])
    out = capsys.readouterr().out
    assert '2 images of 96 x 96, 3 objects each, cpu, float32' in out
    shares = [line.split('|')[3] for line in out.splitlines() if line.startswith('| ')][2:]
    assert len(shares) == 7 and shares[-1].strip() == '100.0%'
    assert 'matching + losses take' in out


def test_beside_transformers(tool, small, capsys):
    pytest.importorskip('transformers')
    pytest.importorskip('safetensors')
    options = ('--peer', 'transformers', '--loss-objects', '7', '--skip-memory')
    tool('benchmark_training').main([small, *STEP, *options])
    out = capsys.readouterr().out
    phases = [line.split(' | ')[0][2:] for line in out.splitlines() if line.startswith('| ')]
    losses = ['ms', '---', 'matching + losses', 'with their backward pass']
    assert phases[-4:] == losses
    assert phases[2:-4] == ['forward', 'matching + losses', 'backward', 'optimiser', 'rest', 'step']
    assert out.count('loss terms agree to') == 2
    assert 'matching + losses alone, 7 objects per image' in out


@pytest.mark.slow
def test_peak_memory(tool, small, capsys):
    pytest.importorskip('transformers')
    pytest.importorskip('safetensors')
    options = ('--peer', 'transformers', '--loss-objects', '--skip-step')
    tool('benchmark_training').main([small, *STEP, *options])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('peak of a step beyond what is in use between two:')
    assert 0.2 < float(line.split()[-1]) < 2


def test_three_sides_are_refused(tool, small):
    with pytest.raises(SystemExit, match=r'height and width, or one side, got \[96, 64, 32\]'):
        tool('benchmark_training').main([small, *STEP, '--size', '96', '64', '32'])


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('nowhere.py', 'nowhere.py'),
        ('configs/yolov8/yolov8_atto_digits.py', 'has no head with set prediction'),
        ('configs/deim/deim_dfine_hgnetv2-atto_digits.py', 'Compare the same size in'),
    ],
)
def test_what_cannot_be_timed(tool, config, message):
    with pytest.raises(SystemExit, match=f'^error: .*({message})'):
        tool('benchmark_training').main([config, *STEP, '--peer', 'transformers'])
