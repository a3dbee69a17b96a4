# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from deim_mmdet.benchmark.convergence_curves import (
    COLUMNS,
    Epoch,
    RunName,
    check_same_conditions,
    curves_to_csv,
    epochs_to_csv,
    epochs_to_reach,
    markdown_table,
    order_of_runs,
    read_epochs,
    summarize,
)


def run_of(*aps: float, weights: int = 1, images: int = 2, objects: float = 3.0):
    """The epochs of a run with these AP."""
    return [
        Epoch(i, ap, 2 * ap, ap / 2, objects, 1.5, 1.25, weights, 10 + i, images + i)
        for i, ap in enumerate(aps, 1)
    ]


@pytest.mark.parametrize(
    'curve, target, epoch',
    [
        ([], 0.1, None),
        ([0.1, 0.2], 0.3, None),
        ([0.1, 0.3, 0.2], 0.3, 2),  # as good as is enough, and the first counts
        ([0.4, 0.5], 0.3, 1),
        ([0.0], 0.0, 1),
    ],
)
def test_epochs_to_reach(curve, target, epoch):
    assert epochs_to_reach(curve, target) == epoch


def test_the_first_seed_can_be_compared_before_the_second_begins():
    runs = order_of_runs(['a', 'b'], ['both-half', 'mal', 'baseline'], [5, 3])
    assert [str(run) for run in runs[:6]] == [
        *('a_baseline_seed-5', 'b_baseline_seed-5', 'a_mal_seed-5', 'b_mal_seed-5'),
        *('a_both-half_seed-5', 'b_both-half_seed-5'),
    ]
    assert {run.seed for run in runs[6:]} == {3} and len(runs) == 12
    assert [RunName.parse(str(run)) for run in runs] == runs


def test_file_of_a_run(tmp_path):
    file = tmp_path / 'epochs.csv'
    assert read_epochs(file) == []
    epochs = run_of(0.125, 0.25)
    file.write_text(epochs_to_csv(epochs))
    assert read_epochs(file) == epochs
    lines = file.read_text().splitlines()
    assert lines[0] == ','.join(COLUMNS) and len(lines) == 3
    for wrong in ([], lines[1:], [lines[0], lines[2]], [*lines, '3,x'], [*lines, 'x' + lines[1]]):
        file.write_text('\n'.join(wrong))
        with pytest.raises(ValueError, match='epochs.csv is not the file of a run'):
            read_epochs(file)


def test_all_runs_in_one_file():
    text = curves_to_csv({RunName('a', 'mal', 0): run_of(0.5), RunName('b', 'both', 1): []})
    assert text.splitlines() == [
        'detector,variant,seed,' + ','.join(COLUMNS),
        'a,mal,0,1,0.5000,1.0000,0.2500,3.0000,1.5000,1.2500,1,11,3',
    ]


def test_runs_under_other_conditions_are_refused():
    base, both = RunName('a', 'baseline', 0), RunName('a', 'both', 0)
    mal, half = RunName('a', 'mal', 0), RunName('a', 'both-half', 0)
    run = run_of(0.1, 0.2)
    # other pixels are what Dense O2O is for; a shorter run has other stages
    alike = {base: run, both: run_of(0.1, 0.2, images=7), mal: run, half: run_of(0.3, images=8)}
    check_same_conditions(alike)
    # another seed, another detector
    check_same_conditions({**alike, RunName('a', 'mal', 1): run_of(0.1, weights=5)})
    check_same_conditions({**alike, RunName('b', 'mal', 0): run_of(0.1, weights=5)})
    with pytest.raises(ValueError, match='a_both-half_seed-0 and a_baseline_.* weights_crc32'):
        check_same_conditions({**alike, half: run_of(0.1, weights=5)})
    other_order = [run[0], replace(run[1], order_crc32=0)]
    with pytest.raises(ValueError, match='in epoch 2 they differ in order_crc32'):
        check_same_conditions({**alike, both: other_order})
    other_pixels = {**alike, mal: run_of(0.1, images=7)}
    with pytest.raises(ValueError, match='a_mal_seed-0 and a_baseline_seed-0 .* images_crc32'):
        check_same_conditions(other_pixels)
    check_same_conditions(other_pixels, same_images=False)


def test_variants_beside_their_baseline():
    curves = {
        RunName('a', 'baseline', 0): run_of(0.1, 0.2, 0.3, 0.4),
        RunName('a', 'baseline', 1): run_of(0.1, 0.1, 0.2, 0.2),
        RunName('a', 'both', 0): run_of(0.2, 0.3, 0.4, 0.5, objects=6),
        RunName('a', 'both', 1): run_of(0.0, 0.0, 0.1, 0.1, objects=7),
        RunName('a', 'mal', 1): run_of(0.0, 0.2, 0.2, 0.3),  # its target is that of seed 1
        RunName('b', 'both', 0): run_of(0.1),  # nothing to compare it with
    }
    summaries = summarize(curves)
    assert list(summaries) == ['a'] and list(summaries['a']) == ['baseline', 'both', 'mal']
    both, mal = summaries['a']['both'], summaries['a']['mal']
    assert both.target == pytest.approx(0.3) and both.curve == pytest.approx([0.1, 0.15, 0.25, 0.3])
    assert both.reached == 4 and both.reached_by_seed == [3, None]
    assert both.objects_per_image == pytest.approx(6.5)
    assert (both.lowest[0], both.highest[0]) == (0.0, 0.2)
    assert mal.target == pytest.approx(0.2) and mal.reached == 2 and mal.seeds == [1]
    rows = [line.strip('| ').split(' | ') for line in markdown_table(summaries).splitlines()]
    assert rows[3] == ['a', 'both', '4', '6.5', '0.300', '0.500, 0.100', '4', '3, not', '100%']
    assert rows[4] == ['a', '+ MAL', '4', '3.0', '0.300', '0.300', '2', '2', '50%']
