# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

from deim_mmdet.benchmark.training_memory import TrainingMemory
from tests.test_benchmark.conftest import CONFIGS

ATTO = str(CONFIGS / 'deim/deim_dfine_hgnetv2-atto_digits.py')
MIB = 2**20


@pytest.fixture
def benchmark(tool, monkeypatch):
    """Nothing is trained: frozen parts keep nothing."""

    def measure(cfg, parts, is_frozen, hw, batch_size, amp):
        assert (parts, hw, batch_size, amp) == (['backbone'], (64, 96), 3, False)
        saved = 0 if is_frozen else 100 * MIB
        rest = (10 if cfg.model.get('denoising') else 4) * MIB
        return TrainingMemory(saved, rest, gradients=MIB, optimizer=2 * MIB, peak=saved + rest)

    module = tool('benchmark_memory')
    monkeypatch.setattr(module, 'training_memory_apart', measure)
    return module


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ([], ['with | 100 | 10 | 110 | 10 | 100 | 3 | 3', 'without | 100 | 4 | 104 | 4 | 100 | 3']),
        (['--frozen-only'], ['with |  | 10 |  | 10 |  |  | 3', 'without |  | 4 |  | 4 |  |  | 3']),
    ],
)
def test_a_row_with_denoising_and_one_without(benchmark, capsys, options, expected):
    sizes = ['--size', '64', '96', '--batch-size', '3']
    benchmark.main([ATTO, *sizes, '--parts', 'backbone', *options])
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith('| model | denoising | kept by backbone | kept by the rest |')
    assert len(rows) == 2
    for row, cells in zip(rows, expected):
        assert row.startswith(f'| deim_dfine_hgnetv2-atto_digits | {cells}')


@pytest.mark.parametrize(
    ('config', 'message'),
    [('nowhere.py', 'nowhere.py'), (ATTO, 'no StagedFreezeHook. Say what to freeze: --parts')],
)
def test_what_cannot_be_measured(benchmark, config, message):
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        benchmark.main([config])
