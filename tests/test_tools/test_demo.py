# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import os

import cv2
import pytest


@pytest.fixture
def demo(tool):
    return tool('demo')


def test_results_never_share_a_folder(demo, tmp_path):
    wanted = tmp_path / 'work_dirs/demo'
    assert demo.claim_folder(wanted) == wanted
    assert demo.claim_folder(wanted) == wanted  # still empty
    (wanted / 'mine.txt').write_text('keep')
    second = demo.claim_folder(wanted)
    assert second.name == 'demo-2'
    (second / 'file').touch()
    assert demo.claim_folder(wanted).name == 'demo-3'
    assert (wanted / 'mine.txt').read_text() == 'keep'


def test_a_failed_write_leaves_the_old_file(demo, tmp_path):
    target = tmp_path / 'metrics.json'
    target.write_text('old')

    def fail(path):
        with open(path, 'w') as file:
            file.write('half')
        raise RuntimeError

    with pytest.raises(RuntimeError):
        demo.write_atomically(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.json']
    assert target.read_text() == 'old'


def test_the_best_checkpoint_is_kept(demo, tmp_path):
    training, out = tmp_path / 'training', tmp_path / 'out'
    training.mkdir(), out.mkdir()
    with pytest.raises(SystemExit, match='left no checkpoint'):
        demo.keep_checkpoint(training, out)
    (training / 'epoch_2.pth').write_bytes(b'last')
    (training / 'last_checkpoint').write_text(str(training / 'epoch_2.pth'))
    assert demo.keep_checkpoint(training, out).read_bytes() == b'last'
    (training / 'best_coco_bbox_mAP_epoch_1.pth').write_bytes(b'best')
    assert demo.keep_checkpoint(training, out).read_bytes() == b'best'


def test_whole_demo(demo, tiny_digits, tmp_path, capsys):
    out = tmp_path / 'work_dirs/demo'
    demo.main([str(tiny_digits(demo.CONFIG)), '--work-dir', str(out), '--pictures', '2'])
    shown = capsys.readouterr().out
    left = sorted(name for name in os.listdir(out))
    assert left == [
        'ap_curve.png',
        'checkpoint.pth',
        'config.py',
        'metrics.json',
        'pictures',
        'training',
    ]
    metrics = json.loads((out / 'metrics.json').read_text())
    assert {'AP', 'AP50', 'AP75', 'seconds', 'images', 'versions'} <= set(metrics)
    assert metrics['images'] == dict(train=8, val=3, seen=16)
    assert [entry['epoch'] for entry in metrics['history']] == [1, 2]
    # The checkpoint is the best of the run, so the file gives the best AP again.
    assert metrics['AP'] == max(entry['AP'] for entry in metrics['history'])
    assert metrics['seconds']['total'] > metrics['seconds']['training'] > 0
    pictures = sorted((out / 'pictures').iterdir())
    assert [path.name for path in pictures] == ['000001.jpg', '000003.jpg']
    # 64 x 96 enlarged until its shorter side has 560 pixels, twice, a gap of 8, a header of 30
    assert cv2.imread(str(pictures[0])).shape == (560 + 30, 2 * 840 + 8, 3)
    assert cv2.imread(str(out / 'ap_curve.png')) is not None
    for text in ('4/4', 'held-out scenes', 'metrics.json', 'tools/train_custom.py', 'left  loss'):
        assert text in shown
