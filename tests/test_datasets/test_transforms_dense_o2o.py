# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from deim_mmdet.datasets.transforms import DenseMosaic, DenseO2O, DenseO2OStage, dense_o2o_stage
from deim_mmdet.datasets.transforms.dense_mosaic import map_boxes, warp_image

from .stage_of_worker import StageOfWorker

START, MOSAIC, CLASSIC, END = DenseO2OStage


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)


# ---------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    'stages, expected',
    [
        ((0, 0, 0), {0: END, 5: END}),  # everything off
        ((0, 0, 3), {0: CLASSIC, 2: CLASSIC, 3: END}),  # D-FINE, RT-DETRv2
        ((0, 2, 3), {0: MOSAIC, 1: MOSAIC, 2: CLASSIC, 3: END}),  # no plain start
        ((4, 78, 148), {0: START, 3: START, 4: MOSAIC, 77: MOSAIC, 78: CLASSIC, 147: CLASSIC}),
        ((4, 78, 148), {148: END, 159: END}),  # DEIM-D-FINE-N
    ],
)
def test_stage_is_a_function_of_the_epoch(stages, expected):
    assert {epoch: dense_o2o_stage(epoch, stages) for epoch in expected} == expected


@pytest.mark.parametrize('stages', [(), (4, 29), (29, 4, 50), (-1, 29, 50), (4, 29.5, 50)])
def test_stages_that_are_not_ascending_epochs(stages):
    with pytest.raises(ValueError, match='3 ascending 0-based epochs'):
        dense_o2o_stage(0, stages)


# ---------------------------------------------------------------------------------- mosaic


def make_sample(height, width, boxes, value=100, **extra):
    """A grey image; ``boxes`` are painted white."""
    img = np.full((height, width, 3), value, np.uint8)
    for x1, y1, x2, y2 in boxes:
        img[y1:y2, x1:x2] = 255
    return dict(
        img=img,
        img_shape=(height, width),
        img_path=f'{height}x{width}.jpg',
        gt_bboxes=HorizontalBoxes(np.array(boxes, np.float32).reshape(-1, 4)),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.zeros(len(boxes), bool),
        **extra,
    )


STILL = dict(max_rotation=0, max_translation=0, scale_range=(1, 1))


def test_mosaic_layout():
    # short sides become 20; tiles are as high as the highest, as wide as the widest: 40 x 30
    first = make_sample(40, 60, [(0, 0, 20, 20)], value=10)  # -> 20 x 30
    second = make_sample(80, 40, [], value=20)  # -> 40 x 20
    third = make_sample(20, 20, [(5, 5, 15, 20)], value=30)  # -> 20 x 20
    fourth = make_sample(10, 10, [(1, 2, 3, 4), (4, 4, 10, 10)], value=40)  # -> 20 x 20
    fourth['gt_ignore_flags'][1] = True
    before = copy.deepcopy([first, second, third, fourth])

    results = dict(first, mix_results=[second, third, fourth])
    results = DenseMosaic(short_side=20, **STILL)(results)

    assert results['img'].shape == (80, 60, 3)
    assert results['img_shape'] == (80, 60)
    values = results['img'][..., 0]
    assert (values[10:20, 10:30] == 10).all()  # first, below and right of its object
    assert (values[0:40, 30:50] == 20).all()
    assert (values[40:45, 0:20] == 30).all()
    assert values[40, 30] == 40
    assert (values[20:40, 0:30] == 0).all()  # below the first: no image there
    assert (values[0:40, 50:60] == 0).all()  # right of the second
    np.testing.assert_allclose(
        results['gt_bboxes'].tensor,
        [
            (0, 0, 10, 10),  # x 1/2
            (5, 45, 15, 60),  # y + 40
            (32, 44, 36, 48),  # x 2, x + 30, y + 40
            (38, 48, 50, 60),
        ],
    )
    assert results['gt_bboxes_labels'].tolist() == [0, 0, 0, 1]
    assert results['gt_ignore_flags'].tolist() == [False, False, False, True]
    assert results['mix_img_paths'] == ['40x60.jpg', '80x40.jpg', '20x20.jpg', '10x10.jpg']

    for sample, kept in zip([first, second, third, fourth], before):
        assert (sample['img'] == kept['img']).all()
        assert torch.equal(sample['gt_bboxes'].tensor, kept['gt_bboxes'].tensor)


@pytest.mark.parametrize('seed', range(8))
def test_boxes_move_with_the_image(seed):
    np.random.seed(seed)
    parts = [make_sample(120, 120, [(40, 50, 90, 70)], value=50) for _ in range(4)]
    results = DenseMosaic(short_side=120)(dict(parts[0], mix_results=parts[1:]))
    white = (results['img'][..., 0] > 150).astype(np.uint8)
    assert white.any()
    height, width = white.shape
    for x1, y1, x2, y2 in results['gt_bboxes'].tensor.numpy():
        window = slice(int(y1), int(np.ceil(y2))), slice(int(x1), int(np.ceil(x2)))
        # the box is the tightest one around its object, to the pixels of a blurred corner; one that
        # was cut at the border may be wider, since its corners were cut, not its sides
        if x1 > 0 and y1 > 0 and x2 < width and y2 < height:
            rows, columns = np.nonzero(white[window])
            assert max(rows.min(), columns.min()) <= 2
            assert rows.max() >= y2 - y1 - 3 and columns.max() >= x2 - x1 - 3
        white[window] = 0
    assert not white.any()  # no object without a box


def test_quarter_turn_by_hand():
    # x' = -y + 8, y' = x: a quarter turn of an 8 x 8 image about its centre, row y -> column 7 - y
    matrix = np.array([[0.0, -1.0, 8.0], [1.0, 0.0, 0.0]])
    img = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(warp_image(img, matrix, fill=0), np.rot90(img, k=-1))
    np.testing.assert_allclose(
        map_boxes(np.array([[1.0, 2.0, 4.0, 8.0]]), matrix, (8, 8)), [[0, 1, 6, 4]]
    )
    # cut at the border, and empty when outside
    np.testing.assert_allclose(
        map_boxes(
            np.array([[-3.0, -3.0, 2.0, 2.0], [9.0, 9.0, 12.0, 12.0]]), np.eye(3)[:2], (8, 8)
        ),
        [[0, 0, 2, 2], [8, 8, 8, 8]],
    )


def test_affine_stays_in_its_ranges():
    mosaic = DenseMosaic()
    for _ in range(50):
        matrix = mosaic._random_affine((400, 600))
        scale = np.sqrt(np.linalg.det(matrix[:, :2]))
        angle = np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0]))
        shift = matrix[:, :2] @ (300, 200) + matrix[:, 2] - (300, 200)  # of the centre
        assert 0.5 <= scale <= 1.5
        assert abs(angle) <= 10
        assert abs(shift[0]) <= 60.5 and abs(shift[1]) <= 40.5


def test_mosaic_without_objects():
    parts = [make_sample(30, 30, []) for _ in range(4)]
    results = DenseMosaic(short_side=30)(dict(parts[0], mix_results=parts[1:]))
    assert results['gt_bboxes'].tensor.shape == (0, 4)
    assert results['gt_bboxes_labels'].shape == (0,)


def test_mosaic_of_arrays_gives_arrays():
    parts = [make_sample(30, 30, [(1, 1, 20, 20)]) for _ in range(4)]
    for part in parts:
        part['gt_bboxes'] = part['gt_bboxes'].numpy()
    results = DenseMosaic(short_side=30, **STILL)(dict(parts[0], mix_results=parts[1:]))
    assert isinstance(results['gt_bboxes'], np.ndarray) and len(results['gt_bboxes']) == 4


def test_mosaic_refuses():
    parts = [make_sample(30, 30, []) for _ in range(4)]
    with pytest.raises(ValueError, match='three dicts in mix_results'):
        DenseMosaic()(dict(parts[0], mix_results=parts[1:3]))
    with pytest.raises(NotImplementedError, match='not gt_masks'):
        DenseMosaic()(dict(parts[0], gt_masks=[], mix_results=parts[1:]))
    with pytest.raises(ValueError, match='short_side'):
        DenseMosaic(short_side=0)
    with pytest.raises(ValueError, match='scale_range'):
        DenseMosaic(scale_range=(1.5, 0.5))


# ---------------------------------------------------------------------- the stage-aware part


class Mark:
    """Notes its name in the results."""

    def __init__(self, name):
        self.name = name

    def __call__(self, results):
        results.setdefault('marks', []).append(self.name)
        return results

    def get_indexes(self, dataset):
        return [0, 1, 2]


def make_switch(stage, mosaic_prob=0.5):
    switch = DenseO2O(mosaic=[Mark('mosaic')], classic=[Mark('classic')], mosaic_prob=mosaic_prob)
    switch.stage = stage
    return switch


@pytest.mark.parametrize(
    'stage, mosaic_prob, marks',
    [
        (START, 1.0, []),
        (MOSAIC, 1.0, ['mosaic']),
        (MOSAIC, 0.0, ['classic']),
        (CLASSIC, 1.0, ['classic']),
        (END, 1.0, []),
    ],
)
def test_transforms_of_a_stage(stage, mosaic_prob, marks):
    switch = make_switch(stage, mosaic_prob)
    indexes = switch.get_indexes(range(10))
    assert len(indexes) == (3 if marks == ['mosaic'] else 0)  # no image is loaded in vain
    results = switch(dict(mix_results=[{} for _ in indexes]))
    assert results.get('marks', []) == marks


def test_share_of_mosaics():
    switch = make_switch(MOSAIC, 0.5)
    share = np.mean([len(switch.get_indexes(range(10))) == 3 for _ in range(2000)])
    assert abs(share - 0.5) < 0.04  # 3.6 standard deviations


def test_other_images_are_drawn_uniformly():
    drawn = np.concatenate([DenseMosaic().get_indexes(range(5)) for _ in range(2000)])
    counts = np.bincount(drawn, minlength=5)
    assert len(counts) == 5 and abs(counts / 1200 - 1).max() < 0.1  # 3.2 standard deviations


def test_none_asks_for_another_image():
    switch = DenseO2O(classic=[lambda results: None, Mark('never')], stage=CLASSIC)
    assert switch({}) is None


def test_switch_refuses():
    with pytest.raises(ValueError, match='MixedImageDataset'):
        make_switch(MOSAIC)({})
    with pytest.raises(ValueError, match='get_indexes'):
        DenseO2O(mosaic=[dict(type='PhotometricDistort'), dict(type='DenseMosaic')])
    with pytest.raises(ValueError, match='mosaic_prob'):
        DenseO2O(mosaic_prob=1.5)


def test_a_copy_has_its_own_stage():
    switch = make_switch(START)
    other = copy.deepcopy(switch)
    switch.stage = END
    assert other.stage is START
    assert other._stage._value.is_shared()


@pytest.mark.parametrize('start_method', ['fork', 'spawn'])
def test_stage_reaches_workers_that_outlive_an_epoch(start_method):
    dataset = StageOfWorker()
    loader = DataLoader(
        dataset, num_workers=1, persistent_workers=True, multiprocessing_context=start_method
    )
    seen = []
    for stage in (MOSAIC, CLASSIC, END):
        dataset.pipeline[0].stage = stage
        seen.append({int(value) for value in loader})
    assert seen == [{2}, {3}, {4}]


# ------------------------------------------------------- the whole pipeline on a COCO data set


@pytest.fixture(params=['MixedImageDataset', 'MultiImageMixDataset'])
def coco_cfg(tmp_path, request):
    """Eight pictures of 64 x 48 and 48 x 64 pixels with one to three objects each."""
    images, annotations = [], []
    for index in range(8):
        width, height = (64, 48) if index % 2 else (48, 64)
        img = np.random.randint(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{index}.jpg'), img)
        images.append(dict(id=index, file_name=f'{index}.jpg', width=width, height=height))
        for _ in range(index % 3 + 1):
            x, y = np.random.randint(0, 20, 2).tolist()
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=index,
                    category_id=1 + index % 2,
                    bbox=[x, y, 20, 24],
                    area=480,
                    iscrowd=0,
                )
            )
    categories = [dict(id=1, name='even'), dict(id=2, name='odd')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    init_default_scope('mmdet')
    return dict(
        type=request.param,
        dataset=dict(
            type='CocoDataset',
            data_root=str(tmp_path),
            ann_file='coco.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=('even', 'odd')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
            ],
        ),
        pipeline=[
            dict(
                type='DenseO2O',
                mosaic=[dict(type='DenseMosaic', short_side=32), dict(type='PhotometricDistort')],
            ),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
            dict(type='RandomFlip', prob=0.5),
            dict(type='Resize', scale=(64, 96), keep_ratio=False),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
            dict(type='PackDetInputs'),
        ],
    )


@pytest.mark.parametrize('stage', list(DenseO2OStage))
def test_pipeline_of_a_mmdet_data_set(coco_cfg, stage):
    dataset = DATASETS.build(coco_cfg)
    dataset.pipeline[0].stage = stage
    counts = []
    for _ in range(4):
        for sample in dataset:
            assert sample['inputs'].shape == (3, 96, 64)
            assert sample['inputs'].dtype == torch.uint8
            boxes = sample['data_samples'].gt_instances.bboxes.tensor
            assert (boxes[:, 2:] - boxes[:, :2] > 1).all()
            assert (boxes >= 0).all() and (boxes <= torch.tensor([64, 96, 64, 96])).all()
            assert len(boxes) == len(sample['data_samples'].gt_instances.labels)
            counts.append(len(boxes))
    plain = [1, 2, 3, 1, 2, 3, 1, 2] * 4
    if stage in (START, END):
        assert counts == plain
    elif stage is MOSAIC:
        assert sum(counts) > 1.5 * sum(plain)  # half of them have about three times the objects
    else:
        assert 0 < sum(counts) <= sum(plain)


@pytest.mark.parametrize('stage, loads', [(START, 8), (MOSAIC, 32), (CLASSIC, 8), (END, 8)])
def test_only_images_that_are_needed_are_loaded(coco_cfg, stage, loads, monkeypatch):
    coco_cfg['pipeline'][0]['mosaic_prob'] = 1.0
    dataset = DATASETS.build(coco_cfg)
    dataset.pipeline[0].stage = stage
    loader = TRANSFORMS.get('LoadImageFromFile')
    calls = []
    load = loader.transform
    monkeypatch.setattr(loader, 'transform', lambda *args: calls.append(0) or load(*args))
    for _ in dataset:
        pass
    assert len(calls) == loads


def test_a_pipeline_that_drops_every_image(coco_cfg):
    dataset = DATASETS.build(dict(coco_cfg, pipeline=[dict(type='DenseO2O')]))
    dataset.pipeline = [lambda results: None]
    dataset.pipeline_types = ['Drop']
    with pytest.raises(RuntimeError, match='None'):
        dataset[0]


def test_a_dropped_sample_is_replaced(coco_cfg):
    dataset = DATASETS.build(dict(coco_cfg, type='MixedImageDataset'))
    keep_odd = [lambda results: results if results['img_id'] % 2 else None]
    dataset.pipeline, dataset.pipeline_types = keep_odd, ['KeepOdd']
    assert {dataset[0]['img_id'] for _ in range(40)} == {1, 3, 5, 7}
