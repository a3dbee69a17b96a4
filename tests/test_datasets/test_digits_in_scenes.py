# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest

from deim_mmdet.datasets import DigitsInScenes
from deim_mmdet.datasets import digits_in_scenes as digits
from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits

SMALL = dict(num_train=5, num_val=3, image_hw=(96, 160), objects=(0, 4), digit_size=(18, 60))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp('data') / 'digits', DigitsOptions(**SMALL), False)


def test_folder_holds_coco_format(small):
    assert sorted(contents(small)) == [
        'annotations/train.json',
        'annotations/val.json',
        'digits.json',
        *(f'train/{i:06d}.jpg' for i in range(1, 6)),
        *(f'val/{i:06d}.jpg' for i in range(1, 4)),
    ]
    train = json.loads((small / 'annotations/train.json').read_text())
    assert [c['id'] for c in train['categories']] == list(range(1, 11))
    assert [c['name'] for c in train['categories']] == list('0123456789')
    assert [image['id'] for image in train['images']] == [1, 2, 3, 4, 5]
    assert [a['id'] for a in train['annotations']] == list(range(1, len(train['annotations']) + 1))
    for image in train['images']:
        assert cv2.imread(str(small / 'train' / image['file_name'])).shape == (96, 160, 3)
        assert (image['height'], image['width']) == (96, 160)


def test_same_options_give_the_same_bytes(small, tmp_path):
    again = make_digits(tmp_path / 'again', DigitsOptions(**SMALL), False)
    assert contents(again) == contents(small)
    other = make_digits(tmp_path / 'other', DigitsOptions(**SMALL, seed=1), False)
    assert contents(other)['train/000001.jpg'] != contents(small)['train/000001.jpg']


def test_small_set_is_the_head_of_a_large_one(small, tmp_path):
    fewer = make_digits(tmp_path / 'few', DigitsOptions(**{**SMALL, 'num_train': 2}), False)
    for name, data in contents(fewer / 'train').items():
        assert contents(small / 'train')[name] == data


def test_second_call_writes_nothing(small, monkeypatch):
    monkeypatch.setattr(digits, '_write_data_set', lambda *args: pytest.fail('wrote again'))
    assert make_digits(small, DigitsOptions(**SMALL)) == small


def test_other_content_is_refused_and_kept(small, tmp_path):
    before = contents(small)
    with pytest.raises(FileExistsError, match='seed is 0, asked for 7.*Choose another folder'):
        make_digits(small, DigitsOptions(**SMALL, seed=7), False)
    assert contents(small) == before
    (tmp_path / 'mine.txt').write_text('do not lose me')
    with pytest.raises(FileExistsError, match='something else than digits'):
        make_digits(tmp_path, DigitsOptions(**SMALL), False)
    assert contents(tmp_path) == {'mine.txt': b'do not lose me'}


def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def fail_at_third(*args):
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return np.zeros((96, 160, 3), np.uint8), [], []

    monkeypatch.setattr(digits, 'draw_scene', fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / 'digits', DigitsOptions(**SMALL), False)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_finish_first(small, tmp_path, monkeypatch):
    write = digits._write_data_set

    def write_twice(folder, options, progress):
        write(folder, options, progress)
        write_copy(tmp_path / 'digits')

    def write_copy(folder):
        for name, data in contents(small).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    monkeypatch.setattr(digits, '_write_data_set', write_twice)
    made = make_digits(tmp_path / 'digits', DigitsOptions(**SMALL), False)
    assert contents(made) == contents(small)
    assert [path.name for path in tmp_path.iterdir()] == ['digits']


@pytest.mark.parametrize('seed', range(6))
def test_boxes_are_tight_and_apart(seed):
    options = DigitsOptions(image_hw=(200, 280), objects=(8, 12), digit_size=(16, 90))
    handwriting, photographs = digits.load_handwriting()['train'], digits.find_photographs()
    scene, labels, boxes = digits.draw_scene(
        np.random.default_rng(seed), handwriting, photographs, options
    )
    # The background is drawn first, so a scene without digits from the same seed is what is behind.
    empty, _, none = digits.draw_scene(
        np.random.default_rng(seed),
        handwriting,
        photographs,
        DigitsOptions(image_hw=(200, 280), objects=(0, 0)),
    )
    assert none == [] and len(labels) == len(boxes) >= 5
    changed = np.abs(scene.astype(int) - empty).max(axis=2) > 0
    taken = np.zeros_like(changed, dtype=int)
    for x, y, w, h in boxes:
        assert x >= 0 and y >= 0 and x + w <= 280 and y + h <= 200
        assert min(w, h) >= 16
        ink = changed[y : y + h, x : x + w]
        for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert side.any()
        taken[y : y + h, x : x + w] += 1
    assert taken.max() == 1
    assert not changed[taken == 0].any()


@pytest.mark.parametrize('seed', range(20))
def test_ink_differs_from_its_background(seed):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256)
    patch = np.full((20, 20, 3), grey, np.uint8)
    luma = digits.choose_colour(rng, patch) @ [0.114, 0.587, 0.299]
    assert abs(luma - grey) >= 60


def test_handwriting_of_the_splits_is_disjoint():
    split = digits.load_handwriting()
    train, val = ({sample.tobytes() for sample in split[name][0]} for name in ('train', 'val'))
    assert not train & val
    assert len(split['train'][1]) + len(split['val'][1]) == 1797
    assert set(split['train'][1]) == set(split['val'][1]) == set(range(10))


def test_named_photographs_are_used(tmp_path):
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 2] = 255
    (tmp_path / 'folder').mkdir()
    cv2.imwrite(str(tmp_path / 'folder' / 'red.png'), red)
    found = digits.find_photographs([str(tmp_path / 'folder')])
    assert [path.name for path in found] == ['china.jpg', 'flower.jpg', 'red.png']
    options = DigitsOptions(image_hw=(64, 96), objects=(0, 0), digit_size=(16, 20))
    scene, _, _ = digits.draw_scene(
        np.random.default_rng(0), digits.load_handwriting()['train'], found[2:], options
    )
    assert scene.shape == (64, 96, 3) and (scene[..., 2] > scene[..., 0] + 60).all()


@pytest.mark.parametrize(
    ('name', 'make', 'error', 'message'),
    [
        ('missing.jpg', lambda path: None, FileNotFoundError, 'missing.jpg does not exist'),
        ('empty', lambda path: path.mkdir(), FileNotFoundError, 'No picture'),
        ('text.jpg', lambda path: path.write_text('hello'), ValueError, 'text.jpg is not a'),
    ],
)
def test_bad_photographs_are_named(tmp_path, name, make, error, message):
    make(tmp_path / name)
    options = DigitsOptions(**{**SMALL, 'num_train': 30}, photographs=(str(tmp_path / name),))
    with pytest.raises(error, match=message):
        make_digits(tmp_path / 'digits', options, False)
    assert not (tmp_path / 'digits').exists()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(num_train=0), 'num_train must be at least 1, got 0'),
        (dict(image_hw=(16, 256)), 'image_hw must be at least 32'),
        (dict(objects=(3, 2)), 'objects must be'),
        (dict(digit_size=(8, 32)), '16 <= smallest'),
        (dict(digit_size=(16, 300)), 'largest <= 256'),
        (dict(seed=-1), 'seed must be 0 or greater'),
        (dict(jpeg_quality=0), 'jpeg_quality'),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        DigitsOptions(**wrong)


def test_data_set_is_built_on_first_use(tmp_path):
    root = tmp_path / 'digits'
    lazy = DigitsInScenes(data_root=str(root), split='val', options=SMALL, lazy_init=True)
    assert not root.exists()
    assert lazy.metainfo['classes'] == tuple('0123456789')
    dataset = DigitsInScenes(data_root=str(root), split='val', options=SMALL, test_mode=True)
    assert len(dataset) == 3
    truth = json.loads((root / 'annotations/val.json').read_text())
    for info in (dataset.get_data_info(i) for i in range(3)):
        mine = [a for a in truth['annotations'] if a['image_id'] == info['img_id']]
        assert [i['bbox_label'] for i in info['instances']] == [a['category_id'] - 1 for a in mine]
    with pytest.raises(ValueError, match='split must be one of'):
        DigitsInScenes(split='test')
