# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModule

from deim_mmdet.datasets.config_checks import check_config, find_datasets, use_coco_files
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits

SOUND = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)


@pytest.fixture
def files(tmp_path):
    """A sound data set of two images, 40 x 30; ``files(annotations, **changes)`` rewrites its
    JSON."""
    (tmp_path / 'images').mkdir()
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f'images/{i}.jpg'), np.full((30, 40, 3), 90 * i, np.uint8))

    def write(annotations=(SOUND,), name='ann.json', **changes):
        images = [dict(id=i, file_name=f'{i}.jpg', width=40, height=30) for i in (1, 2)]
        content = dict(images=images, categories=[dict(id=1, name='cat'), dict(id=5, name='dog')])
        content.update(annotations=list(annotations), **changes)
        (tmp_path / name).write_text(json.dumps(content))
        return [str(tmp_path / name), str(tmp_path / 'images')]

    return write


def state(folder):
    return {
        path: hashlib.sha1(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def check(tool, *args):
    """Exit code, and the problems as text: cells of the printed table are wrapped at any place."""
    module, shown = tool('check_dataset'), []
    report = module.report

    def record(checked, problems):
        shown.extend(map(str, problems))
        report(checked, problems)

    module.report = record
    return module.main([*args, '--workers', '1']), '\n'.join(shown)


def test_sound_files_pass(tool, capsys, files):
    assert check(tool, *files()) == (0, '')
    shown = ' '.join(capsys.readouterr().out.split())
    assert '2 images, 1 usable of 1 annotations, 2 classes (cat 1, dog 0)' in shown
    assert 'No problem found.' in shown


def test_problems_are_shown_as_a_table(tool, capsys, files):
    check(tool, *files([SOUND, dict(SOUND, id=2, bbox=[50, 1, 9, 9])]))
    shown = capsys.readouterr().out
    assert '[50, 1, 9, 9]' in shown  # brackets are no markup
    assert 'warning' in shown and 'what to do' in shown
    assert '0 errors, 1 warnings. Nothing was changed.' in shown


BROKEN = [  # changes to the annotation file, exit code, what is shown
    (dict(annotations=[]), 1, 'no usable object'),
    (
        dict(annotations=[SOUND, dict(SOUND, id=2, bbox=[50, 1, 9, 9])]),
        0,
        '1 of 2 boxes are wholly',
    ),
    (dict(annotations=[SOUND, dict(SOUND, id=2, bbox=[5, 1, 0, 9])]), 0, 'no width or no height'),
    (dict(annotations=[SOUND, dict(SOUND, id=2, bbox=[5, 1, float('nan'), 9])]), 0, 'four finite'),
    (
        dict(annotations=[SOUND, dict(SOUND, id=2, image_id=9)]),
        0,
        'an image that the file does not list',
    ),
    (dict(annotations=[SOUND, SOUND]), 0, 'listed more than once'),
    (dict(images=[]), 1, 'lists no image'),
    (dict(categories=[dict(id=3, name='cow')]), 1, 'a category that the file does not'),
    (
        dict(images=[dict(id=1, file_name='1.jpg', width=80, height=60)]),
        1,
        'annotation file says 80 x 60',
    ),
    (
        dict(images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=30) for i in (1, 7)]),
        1,
        '7.jpg',
    ),
]


@pytest.mark.parametrize(('changes', 'code', 'message'), BROKEN)
def test_problems_are_shown_and_nothing_is_changed(tool, files, tmp_path, changes, code, message):
    paths = files(**changes)
    before = state(tmp_path)
    found, shown = check(tool, *paths)
    assert state(tmp_path) == before
    assert found == code
    assert message in shown


def test_unreadable_images_are_named(tool, files, tmp_path):
    paths = files()
    (tmp_path / 'images/1.jpg').write_text('not an image')
    image = (tmp_path / 'images/2.jpg').read_bytes()
    (tmp_path / 'images/2.jpg').write_bytes(image[:-30])
    code, shown = check(tool, *paths)
    assert code == 1
    assert '1.jpg' in shown and 'this is text' in shown
    assert '2.jpg' in shown and 'the JPEG is truncated' in shown
    assert check(tool, *paths, '--no-decode')[0] == 0


def test_missing_file_and_folder(tool, files, tmp_path):
    ann, _ = files()
    code, shown = check(tool, ann, str(tmp_path / 'nowhere'))
    assert code == 1 and 'the image folder does not exist' in shown
    code, shown = check(tool, str(tmp_path / 'no.json'), str(tmp_path))
    assert code == 1 and 'no.json does not exist' in shown
    with pytest.raises(SystemExit):
        tool('check_dataset').main([ann])


def test_classes_and_their_number(tool, files):
    paths = files()
    code, shown = check(tool, *paths, '--classes', 'horse')
    assert code == 1 and "asked for 'horse'; the file has 'cat', 'dog'" in shown
    code, shown = check(tool, *paths, '--num-classes', '80')
    assert code == 1 and 'num_classes is 80, but the data set has 2 classes' in shown
    assert check(tool, *paths, '--num-classes', '2')[0] == 0


def test_long_lists_of_images_are_shortened(tool, files, tmp_path):
    paths = files(
        images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=30) for i in range(1, 31)]
    )
    for i in range(1, 31):
        (tmp_path / f'images/{i}.jpg').write_text('text')
    _, shown = check(tool, *paths)
    assert '20.jpg' in shown and '21.jpg' not in shown and '10 more images have problems' in shown
    _, shown = check(tool, *paths, '--all')
    assert '30.jpg' in shown and 'more images' not in shown


# Configurations
# ------------------------------------------------------------------------------------------------


def config(files, **model):
    train, images = files()
    val, _ = files(name='val.json')

    def dataset(ann_file, **kwargs):
        return dict(
            type='CheckedCocoDataset', ann_file=ann_file, data_prefix=dict(img=images), **kwargs
        )

    wrapped = dict(type='MultiImageMixDataset', dataset=dataset(train), pipeline=[])
    return Config(
        dict(
            model=dict(bbox_head=dict(num_classes=2), num_queries=300, **model),
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=dict(dataset=dataset(val, test_mode=True)),
            val_evaluator=dict(type='CheckedCocoMetric', ann_file=val),
        )
    )


def messages(cfg):
    checked, problems = check_config(cfg)
    return [str(p) for p in [*problems, *(q for f in checked for q in f.problems)]]


def test_sound_config_passes(files):
    cfg = config(files)
    before = cfg.pretty_text
    assert messages(cfg) == []
    assert cfg.pretty_text == before


def test_num_classes_of_a_config(files):
    cfg = config(files)
    cfg.model.bbox_head.num_classes = 80
    (train, val) = messages(cfg)
    assert 'model.bbox_head.num_classes is 80, but the data set has 2 classes' in train
    assert train.startswith('train_dataloader') and val.startswith('val_dataloader')


def test_classes_that_differ_between_training_and_validation(files):
    cfg = config(files)
    cfg.val_dataloader.dataset.metainfo = dict(classes=('dog', 'cat'))
    assert any("its classes ('dog', 'cat') are not those of training" in m for m in messages(cfg))


def test_evaluator_of_another_file(files):
    cfg = config(files)
    cfg.val_evaluator.ann_file = cfg.train_dataloader.dataset.dataset.ann_file
    (message,) = messages(cfg)
    assert 'it evaluates against' in message and 'Set val_evaluator.ann_file' in message


def test_more_objects_than_queries(files):
    cfg = config(files)
    cfg.model.num_queries = 2
    files([dict(SOUND, id=i, bbox=[i, 1, 9, 9]) for i in range(1, 4)])
    (message,) = messages(cfg)
    assert '1 images have more objects than the 2 queries' in message and '1.jpg with 3' in message


def test_coco_names_on_other_data_are_refused(files):
    cfg = config(files)
    cfg.train_dataloader.dataset.dataset.type = 'CocoDataset'
    assert any('78 of the 80 classes asked for are not in the file' in m for m in messages(cfg))


@pytest.mark.parametrize('name', ['Objects365V2Dataset', 'VOCDataset'])
def test_what_mmdet_reads_in_its_own_way_is_not_checked(files, name):
    cfg = config(files)
    cfg.train_dataloader.dataset.dataset.type = name
    (message,) = messages(cfg)
    assert f'data sets of type {name} are not checked' in message


def test_digits_that_are_not_built_are_not_built(tmp_path):
    options = dict(num_train=2, num_val=2, image_hw=(64, 64), digit_size=(16, 30))
    dataset = dict(type='DigitsInScenes', data_root=str(tmp_path / 'digits'), options=options)
    cfg = Config(dict(model=dict(num_classes=10), train_dataloader=dict(dataset=dataset)))
    (message,) = messages(cfg)
    assert 'the digits of train are not there yet. Training builds them.' in message
    assert list(tmp_path.iterdir()) == []
    make_digits(tmp_path / 'digits', DigitsOptions(**options), False)
    assert messages(cfg) == []


def test_config_without_data():
    (message,) = messages(Config({'model': {}}))
    assert 'no data set with an ann_file' in message


class Small(BaseModule):
    def __init__(self, num_classes, width):
        super().__init__()
        self.body, self.cls = torch.nn.Linear(3, width), torch.nn.Linear(width, num_classes)


CHECKPOINTS = [  # what the file holds, what is said
    (lambda: Small(2, 4).state_dict(), None),
    (lambda: dict(state_dict=Small(2, 4).state_dict()), None),
    (lambda: Small(5, 4).state_dict(), 'warning.*2 of 4 tensors .* cls.weight: .5, 4. in the file'),
    (lambda: dict(other=torch.zeros(1)), 'error.*no weight .*convert_weights'),
    (lambda: 'text', 'error.*cannot be read'),
]


@pytest.mark.parametrize(('content', 'message'), CHECKPOINTS)
def test_checkpoint_of_another_model(files, tmp_path, content, message):
    if 'Small' not in MODELS.module_dict:
        MODELS.register_module(module=Small)
    cfg = config(files)
    cfg.model = dict(type='Small', num_classes=2, width=4)
    cfg.load_from = str(tmp_path / 'weights.pth')
    assert 'the checkpoint does not exist' in str(check_config(cfg)[1][0])
    content = content()
    if isinstance(content, str):
        (tmp_path / 'weights.pth').write_text(content)
    else:
        torch.save(content, cfg.load_from)
    found = [f'{problem.level} {problem}' for problem in check_config(cfg)[1]]
    if message is None:
        assert found == []
    else:
        (problem,) = found
        assert re.search(message, problem), problem


# Other files in a configuration
# ------------------------------------------------------------------------------------------------


def test_a_config_is_pointed_at_other_files(files, tmp_path):
    digits = dict(type='DigitsInScenes', data_root='data/digits', options=dict(num_train=5))
    wrapped = dict(
        type='MultiImageMixDataset', pipeline=['a'], dataset=dict(digits, pipeline=['b'])
    )
    evaluator = dict(type='CocoMetric', ann_file='data/digits/annotations/val.json')
    cfg = Config(
        dict(
            model=dict(bbox_head=dict(num_classes=10), num_queries=9),
            train_dataloader=dict(batch_size=3, dataset=wrapped),
            val_dataloader=dict(dataset=dict(digits, split='val', test_mode=True, pipeline=['c'])),
            test_dataloader=dict(dataset=dict(digits, split='val', test_mode=True, pipeline=['c'])),
            val_evaluator=evaluator,
            test_evaluator=evaluator,
        )
    )
    before = cfg.pretty_text
    train, images = files()
    val, _ = files(name='val.json')
    new = use_coco_files(cfg, train, val, images)
    assert cfg.pretty_text == before
    assert new.model.bbox_head.num_classes == 2 and new.model.num_queries == 9
    assert new.train_dataloader.batch_size == 3
    (dataset,) = find_datasets(new.train_dataloader.dataset)
    assert dataset == dict(
        type='CheckedCocoDataset',
        metainfo=dict(classes=('cat', 'dog')),
        ann_file=train,
        data_prefix=dict(img=images),
        pipeline=['b'],
    )
    for mode in ('val', 'test'):
        dataset = new[f'{mode}_dataloader'].dataset
        assert dataset.ann_file == new[f'{mode}_evaluator'].ann_file == val
        assert dataset.test_mode and dataset.pipeline == ['c']
        assert dataset.metainfo.classes == ('cat', 'dog')
    assert messages(new) == []


def test_own_data_is_checked_before_anything_starts(tool, capsys, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tool('train_custom')
    monkeypatch.setattr(module.Runner, 'from_cfg', lambda cfg: pytest.fail('training started'))
    cfg = config(files)
    cfg.dump(str(tmp_path / 'base.py'))
    train, images = files()
    val, _ = files([dict(SOUND, category_id=1)], 'val.json', categories=[dict(id=1, name='cow')])
    args = [train, val, images, '--config', str(tmp_path / 'base.py')]
    assert module.main(args) == 1
    shown = capsys.readouterr().out
    assert (
        'none of the 2 classes asked for is in the file' in shown and 'Nothing was trained' in shown
    )
    assert not (tmp_path / 'work_dirs').exists()
    with pytest.raises(SystemExit, match='no.json does not exist'):
        module.main([str(tmp_path / 'no.json'), *args[1:]])
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken/epoch_1.pth').write_text('mine')
    with pytest.raises(SystemExit, match='holds an earlier run.*--resume'):
        module.main([*args, '--work-dir', str(tmp_path / 'taken')])


def test_learning_rate_follows_the_batch_size(tool, files, tmp_path):
    cfg = config(files)
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=128)
    cfg.dump(str(tmp_path / 'base.py'))
    train, images = files()
    module = tool('train_custom')
    args = [train, train, images, '--config', str(tmp_path / 'base.py'), '--batch-size', '4']
    new = module.configure(module.parse_args([*args, '--work-dir', str(tmp_path / 'w')]))
    assert new.auto_scale_lr.enable and new.train_dataloader.batch_size == 4
