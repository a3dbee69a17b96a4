# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from deim_mmdet.benchmark import convergence_folder
from deim_mmdet.benchmark.convergence_curves import (
    VARIANTS,
    Epoch,
    RunName,
    epochs_to_csv,
    read_epochs,
)

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
TINY = ['--size', '64', '--scenes', '16', '--val-scenes', '4', '--epochs', '2']


@pytest.fixture
def benchmark(tool):
    return tool('benchmark_convergence')


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('--epochs 1', '--epochs must be at least 2, so that there are epochs to compare, got 1'),
        ('--variants baseline deim', "unknown variant 'deim'; those of this preset: baseline, bo"),
        ('--detectors dfine-n', "unknown detector 'dfine-n'; .*: dfine-atto, rtdetrv2-atto"),
        ('--size 100', '--size must be a multiple of 32 and at least 64, got 100'),
        ('--scenes 4', '--scenes must be at least --batch-size, got --scenes 4 --batch-size 8'),
        ('--scenes 1 --batch-size 1', 'at least one batch of two images'),
        ('--val-scenes 0', '--val-scenes must be at least 1, got 0'),
        ('--jobs 0', '--jobs must be at least 1, got 0'),
        ('--threads 0', '--threads must be at least 1, got 0'),
        ('--seeds 1 -1', r'--seeds must be 0 or greater, got \[1, -1\]'),
        ('--seeds 1 1', '--seeds must differ'),
    ],
)
def test_arguments_are_checked(benchmark, tmp_path, arguments, message):
    out = tmp_path / 'out'
    with pytest.raises(SystemExit, match=message):
        benchmark.main([*arguments.split(), '--work-dir', str(out)])
    assert not out.exists()


def test_data_that_cannot_be_made(benchmark, tmp_path, monkeypatch):
    def fail(*args):
        raise ImportError('The handwritten digits come with scikit-learn')

    monkeypatch.setattr(benchmark, 'make_digits', fail)
    with pytest.raises(SystemExit, match='error: The handwritten digits come with scikit-learn'):
        benchmark.main(['--work-dir', str(tmp_path / 'out')])


def test_finished_runs_are_kept(benchmark, tmp_path, monkeypatch, capsys):
    """No process is started for them; results are written from their files."""
    out, variants = tmp_path / 'out', ['baseline', 'both-half']
    monkeypatch.setattr(convergence_folder, 'start', lambda *args: pytest.fail('a run was started'))
    arguments = [*TINY, '--detectors', 'dfine-atto', '--variants', *variants, '--seeds', '7']
    benchmark.claim(out, benchmark.read_arguments(benchmark.parse_args(arguments)))
    for variant in variants:
        file = out / 'runs' / str(RunName('dfine-atto', variant, 7)) / 'epochs.csv'
        file.parent.mkdir(parents=True)
        epochs = [Epoch(i, 0.1, 0.2, 0.1, 3.0, 1.0, 1.0, 1, 2, 3) for i in (1, 2)]
        file.write_text(epochs_to_csv(epochs[: VARIANTS[variant].epochs(2)]))
    benchmark.main([*arguments, '--work-dir', str(out)])
    # what is asked for now is finished, what was asked for then is in the table
    benchmark.main([*arguments, '--variants', 'baseline', '--work-dir', str(out)])
    assert '| dfine-atto | both, half the epochs | 1 |' in capsys.readouterr().out
    assert len((out / 'curves.csv').read_text().splitlines()) == 1 + 2 + 1
    assert cv2.imread(str(out / 'curves.png')) is not None
    file.write_text(epochs_to_csv([replace(epochs[0], weights_crc32=0)]))
    with pytest.raises(SystemExit, match='error: .* cannot be compared: .* weights_crc32'):
        benchmark.main([*arguments, '--work-dir', str(out)])


def test_a_run_that_fails_does_not_stop_the_others(benchmark, tmp_path, monkeypatch, capsys):
    def start(out, run, command, threads, lock):
        return subprocess.Popen([sys.executable, '-c', 'raise SystemExit(3)'])

    monkeypatch.setattr(convergence_folder, 'start', start)
    arguments = [*TINY, '--variants', 'baseline', '--seeds', '0']
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*arguments, '--work-dir', str(tmp_path / 'out')])
    assert stop.value.code == 1
    errors = capsys.readouterr().err
    for detector in ('dfine', 'rtdetrv2'):
        assert f'error: {detector}-atto_baseline_seed-0 failed, see {tmp_path}' in errors


@pytest.mark.slow
def test_a_stopped_benchmark_loses_nothing(tmp_path):
    """It gives the very numbers of one that was never stopped."""
    choice = ['--detectors', 'dfine-atto', '--variants', 'both', '--seeds', '3']
    command = [sys.executable, str(TOOLS / 'benchmark_convergence.py'), *TINY, *choice]

    def call(out, **kwargs):
        return subprocess.Popen([*command, '--work-dir', str(tmp_path / out)], text=True, **kwargs)

    def epochs_of(out):
        epochs = read_epochs(tmp_path / out / 'runs' / 'dfine-atto_both_seed-3' / 'epochs.csv')
        return [replace(epoch, seconds=0.0, cpu_seconds=0.0) for epoch in epochs]

    assert call('at-once').wait(timeout=600) == 0
    stopped = call('stopped', stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not epochs_of('stopped'):
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    assert 'Stopped. The same command goes on from here.' in stopped.communicate(timeout=60)[0]
    assert len(epochs_of('stopped')) == 1
    assert call('stopped').wait(timeout=600) == 0

    assert epochs_of('stopped') == epochs_of('at-once') and len(epochs_of('at-once')) == 2
    assert not list((tmp_path / 'stopped').rglob('*.pth'))
    setup = json.loads((tmp_path / 'stopped' / 'setup.json').read_text())
    assert setup['setup']['epochs'] == 2 and 'torch' in setup['versions']
    assert len((tmp_path / 'stopped' / 'curves.csv').read_text().splitlines()) == 3
