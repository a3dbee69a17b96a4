# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import cv2
import pytest
import torch

from .conftest import TOOLS


@pytest.fixture
def demo_deyo(tool, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))  # as for a command of that folder
    return tool('demo_deyo')


def training(epochs, seconds, ap, parameters=10, history=()):
    return dict(
        epochs=epochs,
        images=dict(train=100, val=20, seen=100 * epochs),
        seconds=dict(training=seconds),
        parameters=parameters,
        AP=ap,
        AP50=ap + 0.1,
        history=[dict(epoch=n, AP=value, AP50=value + 0.1) for n, value in history],
    )


def test_rows_of_the_table(demo_deyo):
    results = dict(
        stage_one=training(8, 80.0, 0.4),
        stage_two=training(4, 60.0, 0.5, parameters=30),
        at_once=training(12, 240.0, 0.45, parameters=30, history=[(4, 0.2), (12, 0.45)]),
    )
    keys = ('epochs', 'images', 'seconds', 'parameters', 'AP')
    assert [tuple(row[key] for key in keys) for row in demo_deyo.compare(results)] == [
        (8, 800, 80, 10, 0.4),
        (4, 400, 60, 30, 0.5),
        (12, 1200, 140, 30, 0.5),  # both: what they took together, what the second reached
        (12, 1200, 240, 30, 0.45),
        (4, 400, 80, 30, 0.2),  # a third of its time, its AP then
    ]
    results['at_once']['history'] = results['at_once']['history'][1:]  # not evaluated then
    assert len(demo_deyo.compare(results)) == 4


def test_a_failure_and_a_process_that_goes_on(demo_deyo, monkeypatch):
    failed = subprocess.Popen([sys.executable, '-c', 'raise SystemExit(3)'])
    with pytest.raises(SystemExit, match='exit code 3 of the second stage'):
        demo_deyo.succeed(failed, 'the second stage')
    monkeypatch.setattr(demo_deyo, 'PATIENCE', 0.1)
    sleeping = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    demo_deyo.stop([failed, sleeping])
    assert sleeping.returncode < 0


@pytest.mark.timeout(900)  # three programs: half a minute of two idle cores, minutes of busy ones
def test_whole_command(demo_deyo, tiny_digits, tmp_path, capfd):
    out = tmp_path / 'work_dirs/demo_deyo'
    arguments = []
    for name, epochs in (('stage_one', 1), ('stage_two', 1), ('at_once', 2)):
        config = tiny_digits(TOOLS.parent / demo_deyo.CONFIGS[name], epochs)
        arguments += ['--' + name.replace('_', '-'), str(config)]
    demo_deyo.main([*arguments, '--work-dir', str(out), '--pictures', '1'])

    shown = capfd.readouterr().out
    assert sorted(os.listdir(out)) == [
        'ap_curve.png',
        'at_once',
        'at_once.log',
        'metrics.json',
        'stage_one',
        'stage_two',
    ]
    rows = json.loads((out / 'metrics.json').read_text())['rows']
    assert [row['images'] for row in rows] == [8, 8, 16, 16, 8]
    for row in rows:
        assert row['title'] in shown and f'{row["AP"]:.3f}' in shown
    assert cv2.imread(str(out / 'ap_curve.png')) is not None
    assert len(list((out / 'stage_two/pictures').iterdir())) == 1

    one, two, at_once = (
        torch.load(out / name / 'checkpoint.pth', weights_only=False)['state_dict']
        for name in demo_deyo.CONFIGS
    )
    frozen = [key for key in two if key.startswith(('backbone.', 'neck.'))]
    statistics = [key for key in frozen if key.endswith('running_var')]
    assert len(statistics) > 20
    for key in frozen:
        assert torch.equal(two[key], one[key]), key
    # the box branch begins with the first stage's weights and is trained, and at once nothing is
    # frozen
    box = 'bbox_head.box_branch'
    assert any(not torch.equal(two[key], one[key]) for key in two if key.startswith(box))
    assert not any(torch.equal(at_once[key], two[key]) for key in statistics)
