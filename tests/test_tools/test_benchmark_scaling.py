# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest

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


@pytest.mark.slow
def test_throughput(tool, capsys):
    options = ('--processes', '1', '2', '--size', '96', '--batch-size', '2', '--steps', '2')
    tool('benchmark_scaling').main([ATTO, *options])
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith('| 1 | ') and first.endswith(' | 1.00 |')
    assert second.startswith('| 2 | ') and float(second.split('|')[2]) > 0
