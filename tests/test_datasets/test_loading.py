# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import os
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from torch.utils.data import DataLoader

from deim_mmdet.datasets import (
    CheckedCocoDataset,
    CheckImageFile,
    LoadReadableImage,
    UnreadableImagesHook,
)
from deim_mmdet.datasets.checks import check_image_file, check_image_files, find_image_damage
from deim_mmdet.datasets.loading import SharedNotes, find_skipped

from .conftest import annotation


def jpeg(seed=0, hw=(30, 40)):
    image = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


def png():
    return cv2.imencode('.png', np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3))[
        1
    ].tobytes()


def with_thumbnail(data):
    """A JPEG with a whole small JPEG in an APP1 segment, as cameras write it."""
    thumbnail = jpeg(1, (8, 8))
    segment = b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail
    return data[:2] + segment + data[2:]


FILES = [  # content, what is wrong with it
    (jpeg(), None),
    (jpeg() + b'\0' * 99, None),  # padding after the end
    (with_thumbnail(jpeg()), None),
    (png(), None),
    (b'', 'the file is empty'),
    (jpeg()[:-200], 'the JPEG is truncated'),
    (jpeg()[:-1], 'the JPEG is truncated'),
    (jpeg()[:100], 'the JPEG is truncated'),
    (with_thumbnail(jpeg())[:-200], 'the JPEG is truncated'),  # the thumbnail's end is still there
    (png()[:-20], 'the PNG is truncated'),
    (b'<html>Not found</html>', "this is text, not an image: '<html>Not found"),
    (bytes(range(256)), 'no decoder can read it'),
    (b'\xff\xd8' + b'\0' * 300 + b'\xff\xd9', 'no decoder can read it'),
]


@pytest.mark.parametrize(('content', 'damage'), FILES)
def test_damage_is_found_and_the_file_named(tmp_path, content, damage):
    path = tmp_path / 'some.jpg'
    path.write_bytes(content)
    loaded = LoadReadableImage(unreadable='skip')({'img_path': str(path)})
    problem = check_image_file(str(path), (30, 40))
    if damage is None:
        assert problem is None
        assert loaded['img'].shape == (30, 40, 3) and loaded['ori_shape'] == (30, 40)
        return
    assert loaded is None
    assert problem.level == 'error' and problem.file == str(path)
    with pytest.raises(ValueError, match=f"some.jpg: ({damage}).*unreadable='skip'"):
        LoadReadableImage()({'img_path': str(path)})


def test_missing_file_is_named(tmp_path):
    path = str(tmp_path / 'gone.jpg')
    with pytest.raises(ValueError, match='gone.jpg: the file cannot be opened'):
        LoadReadableImage()({'img_path': path})
    assert 'cannot be opened' in check_image_file(path).message


def test_image_of_another_size_than_the_annotation_says(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg(hw=(30, 40)))
    assert 'EXIF' in check_image_file(str(path), (40, 30)).remedy
    problem = check_image_file(str(path), (60, 80))
    assert '40 x 30 (width x height) and the annotation file says 80 x 60' in problem.message
    assert 'resized' in problem.remedy


def test_threads_keep_the_order(tmp_path):
    images = []
    for i in range(40):
        (tmp_path / f'{i}.jpg').write_bytes(jpeg() if i % 3 else b'text')
        images.append(dict(file_name=f'{i}.jpg', height=30, width=40))
    one, four = (list(check_image_files(images, str(tmp_path), workers)) for workers in (1, 4))
    assert one == four
    assert [problem is None for _, problem in one] == [i % 3 > 0 for i in range(40)]


def test_png_that_decodes_but_lacks_its_end():
    assert find_image_damage(png().replace(b'IEND', b'IENX'), True).startswith(
        'the PNG is truncated'
    )


def test_unknown_policy():
    with pytest.raises(ValueError, match="'stop' or 'skip', got 'ignore'"):
        LoadReadableImage(unreadable='ignore')


# In a data set, with workers
# ------------------------------------------------------------------------------------------------


def dataset(coco, unreadable, **kwargs):
    path = coco([annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], 2)])
    folder = os.path.join(os.path.dirname(path), 'images')
    with open(os.path.join(folder, 'b.jpg'), 'wb') as file:
        file.write(jpeg()[:-50])
    pipeline = [
        dict(type='LoadReadableImage', unreadable=unreadable),
        dict(type='PackDetInputs'),
    ]
    return CheckedCocoDataset(
        ann_file=path, data_prefix=dict(img=folder), pipeline=pipeline, **kwargs
    )


class Runner:
    """What ``UnreadableImagesHook`` uses of mmengine's."""

    def __init__(self, data):
        self.train_dataloader = SimpleNamespace(dataset=data)
        self.logger = self
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


def names(batches):
    return [os.path.basename(item['data_samples'].img_path) for batch in batches for item in batch]


@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_skipped_images_are_counted_across_workers(coco, start):
    data = dataset(coco, 'skip')
    if start == 'spawn':  # a spawned worker imports this package anew: a bare transform is enough
        data = Loads(
            data.pipeline.transforms[0], [data.get_data_info(i)['img_path'] for i in range(2)]
        )
        loader = DataLoader(data, num_workers=1, multiprocessing_context=start, collate_fn=list)
        list(loader)
        skipped = data.load.skipped
        assert skipped.count == 1 and 'b.jpg: the JPEG is truncated' in skipped.notes[0]
        return
    loader = DataLoader(
        data, batch_size=1, num_workers=2, multiprocessing_context=start, collate_fn=list
    )
    runner, hook = Runner(data), UnreadableImagesHook()
    for _ in range(3):
        assert names(loader) == ['a.jpg', 'a.jpg']
    hook.after_train_epoch(runner)
    (message,) = runner.warnings
    found = find_skipped(data)
    assert found.count >= 3 and len(found.notes) == 1
    assert f'1 unreadable images were skipped so far ({found.count} times' in message
    assert 'b.jpg: the JPEG is truncated' in message
    hook.after_train_epoch(runner)  # nothing new
    assert len(runner.warnings) == 1
    hook.after_train(runner)
    assert 'in the whole run' in runner.warnings[1]


class Loads(torch.utils.data.Dataset):
    def __init__(self, load, paths):
        self.load, self.paths = load, paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.load({'img_path': self.paths[index]}) is None


def test_stop_reaches_the_main_process_with_the_name(coco):
    loader = DataLoader(
        dataset(coco, 'stop'), num_workers=1, multiprocessing_context='fork', collate_fn=list
    )
    with pytest.raises(ValueError, match='b.jpg: the JPEG is truncated'):
        list(loader)


def test_evaluation_stops_even_where_the_pipeline_skips(coco):
    data = dataset(coco, 'skip', test_mode=True)
    assert data[0]['data_samples'].img_id == 1
    with pytest.raises(ValueError, match='b.jpg was skipped.*evaluation needs every image'):
        data[1]


def test_hook_is_silent_without_skips(coco):
    data = dataset(coco, 'skip', indices=1)
    runner = Runner(data)
    data[0]
    UnreadableImagesHook().after_train_epoch(runner)
    UnreadableImagesHook().after_train(runner)
    runner.train_dataloader = SimpleNamespace(dataset=[])  # a data set without our transform
    UnreadableImagesHook().after_train(runner)
    assert runner.warnings == []


def test_notes_are_counted_each_time_and_kept_once():
    notes = SharedNotes()
    for note in ('a', 'b', 'a', 'two\nlines'):
        notes.add(note)
    assert (notes.count, notes.notes) == (4, ['a', 'b', 'two lines'])
    assert copy.deepcopy(notes) is notes
    for i in range(2000):
        notes.add(f'{i:06d}')
    assert notes.count == 2004
    assert len(notes.notes) == 3 + (8192 - 4 - 10) // 7  # a page of bytes, one for each line's end


def test_notes_inside_wrappers_and_nested_transforms_are_found(coco):
    data = dataset(coco, 'skip')
    wrapped = SimpleNamespace(datasets=[SimpleNamespace(dataset=data)])
    data.pipeline.transforms[0].skipped.add('x')
    assert find_skipped(wrapped).notes == ['x']
    nested = SimpleNamespace(
        pipeline=SimpleNamespace(
            transforms=[SimpleNamespace(transforms=list(data.pipeline.transforms))]
        )
    )
    assert find_skipped(nested).count == 1


def test_check_image_file_in_a_test_pipeline(tmp_path):
    whole, cut = tmp_path / 'a.jpg', tmp_path / 'b.jpg'
    whole.write_bytes(jpeg())
    cut.write_bytes(jpeg()[:-200])
    check = CheckImageFile()
    assert check(dict(img_path=None, img=1))['img'] == 1  # not from a file
    assert check(dict(img_path=str(whole), img=1))['img'] == 1
    with pytest.raises(ValueError, match='b.jpg: the JPEG is truncated'):
        check(dict(img_path=str(cut), img=1))


# Reduced decoding
# ------------------------------------------------------------------------------------------------


def smooth(hw, phase=0.0):
    y, x = np.mgrid[: hw[0], : hw[1]]
    waves = [np.sin(x / 17 + phase), np.cos(y / 13), np.sin((x + y) / 23)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize(
    'hw, reduce_to, factor',
    [
        ((96, 160), None, 1),
        ((96, 160), 97, 1),  # smaller already
        ((96, 160), 49, 1),  # one half has 48
        ((96, 160), 48, 2),
        ((97, 161), 24, 4),  # sides that no factor divides
        ((96, 160), 1, 8),  # libjpeg knows no more
    ],
)
def test_jpegs_are_decoded_as_small_as_allowed(tmp_path, hw, reduce_to, factor):
    path = str(tmp_path / 'a.jpg')
    cv2.imwrite(path, smooth(hw), [cv2.IMWRITE_JPEG_QUALITY, 95])
    instance = dict(bbox=[8, 16, 40, 64], bbox_label=1, ignore_flag=0, mask=[[1, 2, 3]])
    info = dict(img_path=path, height=hw[0], width=hw[1], instances=[instance])
    before = copy.deepcopy(info)
    results = LoadReadableImage(reduce_to=reduce_to)(info)

    assert results['img'].shape[:2] == tuple(-(-side // factor) for side in hw)
    assert results['img_shape'] == results['ori_shape'] == results['img'].shape[:2]
    box = [side / factor for side in (8, 16, 40, 64)]
    assert results['instances'][0]['bbox'] == box
    assert ('mask' in results['instances'][0]) == (factor == 1)
    assert before['instances'] == [instance]  # what came in is as it was
    # a pixel is the mean of its block, to three of 255 levels; the last one may stand for a part
    whole = cv2.imread(path)[: hw[0] // factor * factor, : hw[1] // factor * factor]
    blocks = whole.reshape(hw[0] // factor, factor, hw[1] // factor, factor, 3).mean(axis=(1, 3))
    small = results['img'][: blocks.shape[0], : blocks.shape[1]]
    assert np.abs(small - blocks).mean() < 1.5 and np.abs(small - blocks).max() < 16


def test_what_cannot_be_reduced_stays_whole(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), smooth((96, 160)))
    cv2.imwrite(str(tmp_path / 'a.jpg'), smooth((96, 160)))
    load = LoadReadableImage(reduce_to=10)
    box = dict(bbox=[8, 16, 40, 64])
    png = dict(img_path=str(tmp_path / 'a.png'), height=96, width=160, instances=[dict(box)])
    unknown = dict(img_path=str(tmp_path / 'a.jpg'), instances=[dict(box)])
    for results in (load(png), load(unknown)):
        assert results['img'].shape == (96, 160, 3) and results['instances'] == [box]
    with pytest.raises(ValueError, match='reduce_to must be at least 1'):
        LoadReadableImage(reduce_to=0)
    with pytest.raises(ValueError, match="needs imdecode_backend='cv2'"):
        LoadReadableImage(reduce_to=640, imdecode_backend='pillow')


def test_reduced_images_end_where_whole_ones_do(tmp_path):
    """Drawn at one size, the picture and its boxes are the same."""
    hw = (384, 512)
    path = str(tmp_path / 'a.jpg')
    cv2.imwrite(path, smooth(hw), [cv2.IMWRITE_JPEG_QUALITY, 95])
    annotations = TRANSFORMS.build(dict(type='LoadAnnotations', with_bbox=True))
    # Pillow averages when it makes images smaller
    resize = dict(type='Resize', scale=(96, 96), keep_ratio=False, backend='pillow')
    draw = TRANSFORMS.build(resize)
    drawn = []
    for reduce_to in (None, 96):
        instance = dict(bbox=[50.0, 60.0, 301.0, 299.0], bbox_label=0, ignore_flag=0)
        info = dict(img_path=path, height=hw[0], width=hw[1], instances=[instance])
        drawn.append(draw(annotations(LoadReadableImage(reduce_to=reduce_to)(info))))
    whole, reduced = drawn
    torch.testing.assert_close(reduced['gt_bboxes'].tensor, whole['gt_bboxes'].tensor)
    assert np.abs(whole['img'].astype(int) - reduced['img']).mean() < 1.5


def test_damage_is_found_in_reduced_images(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg(hw=(96, 160))[:-200])
    with pytest.raises(ValueError, match='the JPEG is truncated'):
        LoadReadableImage(reduce_to=10)(dict(img_path=str(path), height=96, width=160))
