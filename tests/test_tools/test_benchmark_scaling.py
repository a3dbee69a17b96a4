# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from deim_mmdet.benchmark.scaling import Share
from tests.test_benchmark.conftest import CONFIGS

ATTO = str(CONFIGS / 'deim/deim_dfine_hgnetv2-atto_digits.py')


def test_matching_beside_the_size_of_the_cost_matrix(tool, capsys):
    options = ('--objects', '2', '20', '--batches', '1', '--runs', '1')
    tool('benchmark_scaling').main([ATTO, *options])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    cells = [[cell.strip() for cell in line.split('|')[1:4]] for line in lines]
    assert cells[0] == ['images', 'objects', 'million entries']
    # five sets of 100 queries
    assert cells[2:] == [['8', '2', '0.01'], ['8', '20', '0.08'], ['1', '60', '0.03']]


def test_throughput_beside_that_of_the_first(tool, monkeypatch, capsys):
    def train_together(config, options, processes, steps):
        assert (options.hw, options.batch_size, steps) == ((96, 96), 2, 5)
        return [Share(2 * 5, rank, 0, seconds=1.25) for rank in range(processes)]

    benchmark = tool('benchmark_scaling')
    monkeypatch.setattr(benchmark, 'train_together', train_together)
    options = ('--processes', '1', '2', '--size', '96', '--batch-size', '2', '--steps', '5')
    benchmark.main([ATTO, *options])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        '| 1 | 8.0 | 1.00 |',
        '| 2 | 16.0 | 2.00 |',
    ]
