# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import os
import signal
import sys
from dataclasses import replace

import pytest

from deim_mmdet.benchmark.convergence_curves import Epoch, RunName, epochs_to_csv
from deim_mmdet.benchmark.convergence_folder import (
    claim,
    log_of,
    setup_of,
    sole_user,
    terminable,
    train_all,
    write_results,
)
from deim_mmdet.benchmark.convergence_runs import Setup

SETUP = Setup('cpu', size=64, scenes=16, val_scenes=4, epochs=2, batch_size=8, cfg_options={})
EPOCHS = [Epoch(i, 0.1, 0.2, 0.1, 3.0, 1.0, 1.0, 1, 2, 3) for i in (1, 2)]
# trains the run whose name is the last argument: its file of epochs is there already
WRITE = """
import os, sys
folder = os.path.join(sys.argv[1], 'runs', sys.argv[2])
print('threads', os.environ['OMP_NUM_THREADS'])
os.rename(os.path.join(sys.argv[1], 'trained'), os.path.join(folder, 'epochs.csv'))
"""


def test_a_folder_is_of_one_set_up(tmp_path):
    out = tmp_path / 'out'
    claim(out, SETUP)
    claim(out, SETUP)
    assert setup_of(out) == SETUP
    with pytest.raises(ValueError, match='another set-up: epochs is 2, asked for 20. Choose anoth'):
        claim(out, replace(SETUP, epochs=20))
    (out / 'setup.json').rename(out / 'other.json')
    with pytest.raises(ValueError, match='holds something else than a benchmark of convergence'):
        claim(out, SETUP)


def test_two_calls_at_once_are_refused(tmp_path):
    with sole_user(tmp_path):
        with pytest.raises(BlockingIOError, match='another call is at work in'):
            with sole_user(tmp_path):
                pass
    with sole_user(tmp_path):
        pass


def test_a_request_to_end_is_as_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_is_trained_in_a_process_of_its_own(tmp_path, capsys):
    run = RunName('dfine-atto', 'baseline', 0)
    claim(tmp_path, SETUP)
    (tmp_path / 'trained').write_text(epochs_to_csv(EPOCHS))
    command = [sys.executable, '-c', WRITE, str(tmp_path)]
    assert train_all(tmp_path, [run], command, jobs=1, threads=3) == []
    assert log_of(tmp_path, run).read_text() == 'threads 3\n'
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('  ')[1:3] for line in lines] == [
        ['epoch 1/2', 'AP 0.100'],
        ['epoch 2/2', 'AP 0.100'],
    ]
    assert lines[1].endswith('0 epochs left in all, about 0:00')
    assert len((tmp_path / 'curves.csv').read_text().splitlines()) == 3
    assert train_all(tmp_path, [run], ['no such program'], jobs=1, threads=1) == []


def test_without_a_baseline_there_is_no_picture(tmp_path):
    claim(tmp_path, SETUP)
    for variant, picture in (('both', []), ('baseline', ['curves.png'])):
        file = tmp_path / 'runs' / str(RunName('dfine-atto', variant, 0)) / 'epochs.csv'
        file.parent.mkdir(parents=True)
        file.write_text(epochs_to_csv(EPOCHS))
        written = write_results(tmp_path)
        assert written == ['table.md', 'curves.csv', *picture]
        assert all((tmp_path / name).stat().st_size for name in written)
