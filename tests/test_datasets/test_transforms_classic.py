# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import RandomFlip
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from deim_mmdet.datasets.transforms import (
    ContiguousFlip,
    MaxIoURandomCrop,
    PhotometricDistort,
    ZoomOut,
)
from deim_mmdet.datasets.transforms import photometric_distort as photometric


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)


def make_sample(height=60, width=80, boxes=()):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return dict(
        img=np.random.randint(0, 256, (height, width, 3), np.uint8),
        img_shape=(height, width),
        gt_bboxes=HorizontalBoxes(boxes),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.arange(len(boxes)) % 2 == 1,
    )


# ------------------------------------------------------------------------------------ zoom out


def test_zoom_out():
    sample = make_sample(boxes=[(10, 20, 30, 50)])
    results = ZoomOut(fill=7, side_range=(2.5, 2.5), prob=1)(copy.deepcopy(sample))
    assert results['img'].shape == (150, 200, 3) and results['img_shape'] == (150, 200)
    assert results['img'].dtype == np.uint8
    x1, y1, x2, y2 = results['gt_bboxes'].tensor[0].int().tolist()
    left, top = x1 - 10, y1 - 20
    assert 0 <= left <= 120 and 0 <= top <= 90
    assert (results['img'][top : top + 60, left : left + 80] == sample['img']).all()
    results['img'][top : top + 60, left : left + 80] = 7
    assert (results['img'] == 7).all()


# ------------------------------------------------------------------------------------ IoU crop


def iou(a, b):
    inter = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


@pytest.mark.parametrize('min_iou', [0.0, 0.3, 0.7])
def test_crop_keeps_its_conditions(min_iou):
    boxes = np.array([(5, 5, 60, 50), (60, 40, 70, 58), (2, 50, 8, 56)], float)
    crop_transform = MaxIoURandomCrop(prob=1, min_ious=(min_iou, 1))
    found = []
    for _ in range(60):
        crop = crop_transform._find_crop(boxes, (60, 80))
        if crop is None:
            continue
        found.append(crop)
        x1, y1, x2, y2 = crop
        assert 0 <= x1 < x2 <= 80 and 0 <= y1 < y2 <= 60
        assert 0.3 * 80 - 1 <= x2 - x1 and 0.3 * 60 - 1 <= y2 - y1
        assert 0.5 <= (x2 - x1) / (y2 - y1) <= 2
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = [x1 < x < x2 and y1 < y < y2 for x, y in centres]
        # NOTE the best of the objects inside counts, not the worst of all objects
        assert max(iou(crop, box) for box, kept in zip(boxes, inside) if kept) >= min_iou
    assert len(found) > 20
    if min_iou == 0.3:
        worst = [min(iou(crop, box) for box in boxes) for crop in found]
        assert min(worst) < 0.05  # so that mmdet's MinIoURandomCrop would refuse them


def test_crop_moves_what_is_annotated():
    sample = make_sample(boxes=[(10, 10, 40, 40), (0, 0, 9, 9), (35, 35, 60, 60)])
    masks = np.zeros((3, 60, 80), np.uint8)
    masks[0, 10:40, 10:40] = 1
    sample['gt_masks'] = BitmapMasks(masks, 60, 80)
    before = copy.deepcopy(sample)
    transform = MaxIoURandomCrop(prob=1)
    transform._find_crop = lambda *args: np.array([5, 8, 50, 48])
    results = transform(dict(sample))

    assert (results['img'] == before['img'][8:48, 5:50]).all()
    assert results['img_shape'] == (40, 45)
    # the second has its centre outside, the third is cut at the right and at the bottom
    np.testing.assert_allclose(results['gt_bboxes'].tensor, [(5, 2, 35, 32), (30, 27, 45, 40)])
    assert results['gt_bboxes_labels'].tolist() == [0, 2]
    assert results['gt_ignore_flags'].tolist() == [False, False]
    assert results['gt_masks'].masks.shape == (2, 40, 45)
    assert results['gt_masks'].masks[0].sum() == 900
    # what came in is as it was
    assert torch.equal(sample['gt_bboxes'].tensor, before['gt_bboxes'].tensor)
    assert (sample['img'] == before['img']).all()


def test_crop_leaves_images_without_objects_alone():
    sample = make_sample()
    results = MaxIoURandomCrop(prob=1, min_ious=(0, 1))(dict(sample))
    assert results['img'] is sample['img']


def test_how_often_images_are_cropped():
    # 4/5 of the images are tried, 1/7 of the draws keep the image; one object that fills it lets
    # nearly every crop pass below 0.3, and hardly any above 0.9
    cropped = 0
    for _ in range(300):
        results = MaxIoURandomCrop()(make_sample(boxes=[(0, 0, 80, 60)]))
        cropped += results['img'].shape != (60, 80, 3)
    assert 0.5 < cropped / 300 < 0.8


def test_crop_refuses_an_endless_search():
    with pytest.raises(ValueError, match='must have 1'):
        MaxIoURandomCrop(min_ious=(0.5, 0.9))


# ---------------------------------------------------------------------------------------- flip


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flip_is_that_of_mmdet(direction):
    sample = make_sample(boxes=[(10, 20, 60, 50), (70, 5, 75, 40)])
    ours, theirs = (
        kind(prob=1.0, direction=direction)(copy.deepcopy(sample))
        for kind in (ContiguousFlip, RandomFlip)
    )
    assert (ours['img'] == theirs['img']).all() and ours['img'].flags.c_contiguous
    assert torch.equal(ours['gt_bboxes'].tensor, theirs['gt_bboxes'].tensor)
    np.testing.assert_array_equal(ours['homography_matrix'], theirs['homography_matrix'])
    assert ours['flip'] and ours['flip_direction'] == direction


def test_flip_leaves_what_came_in():
    sample = make_sample(boxes=[(10, 20, 60, 50)])
    img = sample['img']
    before = img.copy()
    flipped = ContiguousFlip(prob=1.0)(sample)['img']
    assert (img == before).all() and not np.shares_memory(img, flipped)


# --------------------------------------------------------------------------------- photometric

PIXELS = np.array([[[10, 20, 30], [200, 100, 50]]], np.uint8)  # BGR


def test_brightness_by_hand():
    expected = [[[12, 25, 38], [250, 125, 62]]]  # x 1.25: 12.5 and 37.5 and 62.5 round to even
    assert photometric.change_brightness(PIXELS, 1.25).tolist() == expected
    assert photometric.change_brightness(PIXELS, 2.0)[0, 1].tolist() == [255, 200, 100]


def test_contrast_by_hand():
    # grey: .114 b + .587 g + .299 r = 21.85 and 96.45, mean 59.15; half of each value + 29.575
    expected = [[[35, 40, 45], [130, 80, 55]]]
    assert photometric.change_contrast(PIXELS, 0.5).tolist() == expected


def test_saturation_by_hand():
    # half of each value and half of its own grey: 10.925 and 48.225
    expected = [[[16, 21, 26], [148, 98, 73]]]
    assert photometric.change_saturation(PIXELS, 0.5).tolist() == expected
    grey = photometric.change_saturation(PIXELS, 0.0)
    assert grey.tolist() == [[[22, 22, 22], [96, 96, 96]]]


def test_hue_by_hand():
    # a third of a turn: red becomes green, green blue, blue red; white and grey stay
    colours = np.array([[[0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 255], [9, 9, 9]]])
    turned = photometric.turn_hue(colours.astype(np.uint8), 1 / 3)
    expected = [[[0, 255, 0], [255, 0, 0], [0, 0, 255], [255, 255, 255], [9, 9, 9]]]
    assert np.abs(turned.astype(int) - expected).max() <= 6  # hue has 256 levels


def test_order_of_channels():
    assert photometric.reorder_channels(PIXELS, np.array([2, 0, 1]))[0, 0].tolist() == [30, 10, 20]


def test_photometric_distortion():
    sample = make_sample()
    img = sample['img'].copy()
    assert PhotometricDistort(prob=0)(dict(sample))['img'] is sample['img']
    results = PhotometricDistort(prob=1)(dict(sample))
    assert results['img'].dtype == np.uint8 and results['img'].shape == img.shape
    assert (results['img'] != img).mean() > 0.5
    assert (sample['img'] == img).all()


def test_photometric_distortion_happens_in_order(monkeypatch):
    order = []
    for name in ('brightness', 'contrast', 'saturation'):
        monkeypatch.setattr(
            photometric, f'change_{name}', lambda img, _, out, name=name: order.append(name) or img
        )
    monkeypatch.setattr(photometric, 'turn_hue', lambda img, *_: order.append('hue') or img)
    seen = set()
    for _ in range(20):
        order.clear()
        PhotometricDistort(prob=1)(make_sample())
        seen.add(tuple(order))
    assert seen == {
        ('brightness', 'contrast', 'saturation', 'hue'),
        ('brightness', 'saturation', 'hue', 'contrast'),
    }


def test_photometric_distortion_refuses_floats():
    with pytest.raises(TypeError, match='float32'):
        PhotometricDistort()(dict(img=np.zeros((4, 4, 3), np.float32)))
