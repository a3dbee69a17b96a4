# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from deim_mmdet.datasets.config_checks import find_datasets
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits
from deim_mmdet.engine.recipe import find_hook

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ATTO = str(CONFIGS / 'deim/deim_dfine_hgnetv2-atto_digits.py')
OPTIONS = dict(num_train=8, num_val=3, image_hw=(64, 64), digit_size=(16, 30), objects=(1, 3))


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp('data') / 'digits', DigitsOptions(**OPTIONS), False)


@pytest.fixture
def start(tool, digits, tmp_path):
    """``start(*options)`` runs the tool in a folder of its own; ``start.configure`` only reads."""
    module = tool('train_custom')
    shutil.copytree(digits, tmp_path / 'digits')
    folder = tmp_path / 'digits'
    paths = [
        str(folder / 'annotations/train.json'),
        str(folder / 'annotations/val.json'),
        str(folder / 'train'),
        *('--val-images', str(folder / 'val')),
        *('--work-dir', str(tmp_path / 'work')),
    ]

    def run(*options):
        return module.main([*paths, *options])

    run.configure = lambda *options: module.configure(module.parse_args([*paths, *options]))
    run.module, run.folder, run.work = module, folder, tmp_path / 'work'
    return run


def test_loaded_weights_are_fine_tuned(start):
    recipe = Config.fromfile(start.module.FINETUNE)
    plain = start.configure()
    assert plain.train_cfg.max_epochs == 160 and plain.load_from is None
    cfg = start.configure('--load-from', 'some.pth')
    assert cfg.load_from == 'some.pth' and not cfg.resume
    assert cfg.param_scheduler == recipe.param_scheduler
    assert cfg.optim_wrapper.optimizer == recipe.optim_wrapper.optimizer
    assert cfg.auto_scale_lr.enable
    assert find_hook(cfg, 'LoadWeightsHook') and find_hook(cfg, 'RichProgressHook')
    assert cfg.model.bbox_head.num_classes == 10
    kept = start.configure('--load-from', 'some.pth', '--keep-schedule')
    assert kept.param_scheduler == plain.param_scheduler and kept.load_from == 'some.pth'


def test_number_of_epochs(start):
    cfg = start.configure('--epochs', '40')
    assert cfg.train_cfg.max_epochs == 40
    assert find_hook(cfg, 'DenseO2OHook').stages == (1, 20, 37)
    cfg = start.configure('--epochs', '6', '--load-from', 'some.pth')
    assert cfg.train_cfg.max_epochs == 6 and find_hook(cfg, 'TwoStageEndHook').begin == 5


def test_some_classes(start):
    cfg = start.configure('--classes', '7', '3')
    assert cfg.model.bbox_head.num_classes == 2
    for mode in ('train', 'val', 'test'):
        (dataset,) = find_datasets(cfg[f'{mode}_dataloader'].dataset)
        assert dataset.metainfo.classes == ('7', '3')
    with pytest.raises(SystemExit, match="none of the 1 classes asked for.*'seven'"):
        start('--classes', 'seven')
    with pytest.raises(SystemExit, match="class '3' is named more than once"):
        start('--classes', '3', '3')


def unreadable(start, name):
    (start.folder / name).write_bytes((start.folder / name).read_bytes()[:-40])


def test_images_are_opened_before_training(start, capsys, monkeypatch):
    monkeypatch.setattr(start.module.Runner, 'from_cfg', lambda cfg: pytest.fail('started'))
    unreadable(start, 'train/000002.jpg')
    (start.folder / 'train/000003.jpg').unlink()
    assert start() == 1
    shown = capsys.readouterr().out
    assert '000002.jpg: the JPEG is truncated' in shown and 'Nothing was trained' in shown
    assert '1 of the 8 image files looked at are missing' in shown
    with pytest.raises(pytest.fail.Exception):
        start('--skip-unreadable', '--batch-size', '4')
    shown = capsys.readouterr().out
    assert 'warning' in shown and '000002.jpg: the JPEG' in shown and 'error' not in shown
    # evaluation needs every image
    unreadable(start, 'val/000001.jpg')
    assert start('--skip-unreadable') == 1
    assert 'error: ' in capsys.readouterr().out


def test_evaluation_on_the_pictures_of_training_is_told(start, capsys, monkeypatch):
    """Both folders hold 000001.jpg; without the second one boxes of one lie on pictures of the
    other."""
    monkeypatch.setattr(start.module.Runner, 'from_cfg', lambda cfg: pytest.fail('started'))
    for folder, shared in (('val', False), ('train', True)):
        with pytest.raises(pytest.fail.Exception):
            start('--val-images', str(start.folder / folder), '--batch-size', '4')
        shown = capsys.readouterr().out
        assert ('val.json: 3 of its images are those of' in shown) == shared
        assert ('other images with --val-images' in shown) == shared


@pytest.mark.parametrize('size', ['0', '-3', 'many'])
def test_a_batch_has_an_image(start, size, capsys):
    with pytest.raises(SystemExit):
        start('--batch-size', size)
    message = f'--batch-size: must be a whole number of at least 1, got {size}'
    assert message in capsys.readouterr().err


def test_a_size_that_is_not_the_annotated_one_is_no_unreadable_image(start, capsys):
    path = start.folder / 'annotations/train.json'
    content = json.loads(path.read_text())
    content['images'][0]['width'] = 99
    path.write_text(json.dumps(content))
    assert start('--skip-unreadable') == 1
    assert 'the annotation file says 99 x 64' in capsys.readouterr().out
    assert start.configure('--skip-unreadable', '--no-image-check')


def write_weights(path, config, names=None):
    model = MODELS.build(Config.fromfile(config).model)
    meta = {} if names is None else dict(meta=dict(dataset_meta=dict(classes=names)))
    torch.save(dict(state_dict=model.state_dict(), **meta), path)


def test_checkpoints_are_looked_into_before_training(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(start.module.Runner, 'from_cfg', lambda cfg: pytest.fail('started'))
    path = tmp_path / 'weights.pth'

    def say(*options):
        assert start('--load-from', str(path), '--no-image-check', *options) == 1
        return capsys.readouterr().out

    assert 'the checkpoint does not exist' in say()
    path.write_text('version https://git-lfs.github.com/spec/v1')
    assert 'git-lfs pointer' in say()
    path.write_text('<!DOCTYPE html>')
    assert 'a web page' in say()
    path.unlink()
    path.mkdir()
    assert 'is a folder' in say() and 'convert_weights.py' in say()
    path.rmdir()
    torch.save([torch.zeros(1)], path)
    assert 'this is a list' in say()
    write_weights(path, ATTO)
    assert 'tensors have another shape' in say()  # the model is N
    write_weights(path, ATTO, ('a', 'b'))
    said = say('--config', ATTO)
    assert "10 class rows, but its class list has 2. Classes of the checkpoint: 'a', 'b'; " in said
    assert "of the data set: '0', '1'" in said

    write_weights(path, ATTO, tuple('abcdefghij'))
    with pytest.raises(pytest.fail.Exception):
        start('--load-from', str(path), '--config', ATTO, '--batch-size', '4')
    assert 'warning: ' in (said := capsys.readouterr().out)
    assert 'no class of the data set (0, 1, 2' in said and 'all of them are new' in said


TINY = ('--config', ATTO, '--batch-size', '4', '--cfg-options', 'train_dataloader.num_workers=0')
TINY += ('train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0')
TINY += ('val_dataloader.persistent_workers=False',)


def test_train_resume_and_fine_tune(start, tmp_path, capsys, monkeypatch):
    # a start that failed leaves a folder, which is no earlier run
    start.work.mkdir()
    (start.work / '20260101_000000').mkdir()
    assert start(*TINY, '--epochs', '1') == 0
    checkpoint = start.work / 'epoch_1.pth'
    assert checkpoint.is_file()
    with pytest.raises(SystemExit, match='holds an earlier run.*--resume'):
        start(*TINY)

    # goes on by what was written, not by the settings of --load-from or the base
    capsys.readouterr()
    cfg = start.configure(*TINY, '--resume', '--load-from', str(checkpoint))
    assert cfg.resume and cfg.load_from is None
    assert cfg.train_cfg.max_epochs == 1 and cfg.optim_wrapper.optimizer.lr == 2e-3

    # mmengine would begin anew, and without --load-from
    (start.work / 'last_checkpoint').rename(tmp_path / 'last_checkpoint')
    with pytest.raises(FileExistsError, match=r'holds an earlier run \(.*--work-dir\.$'):
        start.configure(*TINY, '--resume', '--load-from', str(checkpoint))

    work = tmp_path / 'tuned'
    options = ('--classes', '3', '1', '--load-from', str(checkpoint), '--work-dir', str(work))
    options += ('--epochs', '1', '--resume')  # nothing to resume yet: loads
    assert start(*TINY, *options) == 0
    log = next(work.glob('*/*.log')).read_text()
    assert 'class rows: 2 of 2 from the checkpoint (3 <- 3, 1 <- 1)' in log
    tuned = torch.load(work / 'epoch_1.pth', weights_only=False)
    assert tuned['meta']['dataset_meta']['classes'] == ('3', '1')
    assert len(tuned['state_dict']['query_selection.cls_branch.bias']) == 2
