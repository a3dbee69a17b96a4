# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import copy
import os.path as osp

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from deim_mmdet.datasets.batch import BatchMixUp, BatchRandomSize, generate_scales

FIXTURES = osp.join(osp.dirname(__file__), '..', 'fixtures')


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_sample(boxes, img_shape, pad_shape=(64, 96)):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    sample = DetDataSample(
        metainfo=dict(img_shape=img_shape, pad_shape=pad_shape, batch_input_shape=(64, 96))
    )
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.arange(0))
    return sample


def make_batch():
    """Three images of one colour, padded to 64 x 96, with two, no and one object."""
    inputs = torch.tensor([10.0, 20.0, 40.0])[:, None, None, None].expand(3, 3, 64, 96).clone()
    samples = [
        make_sample([(1, 2, 30, 40), (5, 5, 10, 10)], (64, 80)),
        make_sample([], (48, 96)),
        make_sample([(0, 0, 90, 30)], (32, 96)),
    ]
    return inputs, samples


def snapshot(samples):
    return [
        (dict(s.metainfo), s.gt_instances.bboxes.clone(), s.gt_instances.labels.clone())
        for s in samples
    ]


def assert_untouched(samples, before):
    for sample, (metainfo, boxes, labels) in zip(samples, before):
        assert dict(sample.metainfo) == metainfo
        assert torch.equal(sample.gt_instances.bboxes, boxes)
        assert torch.equal(sample.gt_instances.labels, labels)


# --------------------------------------------------------------------------------------- MixUp


def test_mixup_by_hand():
    inputs, samples = make_batch()
    kept, before = inputs.clone(), snapshot(samples)
    mixed, merged = BatchMixUp(prob=1, beta_range=(0.75, 0.75))(inputs, samples)

    # 0.75 of the image, 0.25 of the one before it; the first is mixed with the last
    expected = torch.tensor([0.75 * 10 + 10, 0.75 * 20 + 2.5, 0.75 * 40 + 5])
    torch.testing.assert_close(mixed, expected[:, None, None, None].expand_as(mixed))
    boxes = [sample.gt_instances.bboxes.tolist() for sample in merged]
    assert boxes == [
        [[1, 2, 30, 40], [5, 5, 10, 10], [0, 0, 90, 30]],
        [[1, 2, 30, 40], [5, 5, 10, 10]],
        [[0, 0, 90, 30]],
    ]
    assert [s.gt_instances.labels.tolist() for s in merged] == [[0, 1, 0], [0, 1], [0]]
    # the valid part is that of both images, which begin in the same corner
    assert [s.img_shape for s in merged] == [(64, 96), (64, 96), (48, 96)]
    assert torch.equal(inputs, kept)
    assert_untouched(samples, before)


def test_mixup_draws():
    inputs, samples = make_batch()
    mixup = BatchMixUp()
    shares = []
    for _ in range(400):
        mixed, _ = mixup(inputs, samples)
        if mixed is not inputs:
            shares.append((40 - mixed[0, 0, 0, 0].item()) / 30)  # 10 beta + 40 (1 - beta)
    assert abs(len(shares) / 400 - 0.5) < 0.08  # 3.2 standard deviations
    assert 0.45 <= min(shares) < 0.46 and 0.54 < max(shares) <= 0.55


def test_mixup_stays_away():
    inputs, samples = make_batch()
    mixup = BatchMixUp(prob=1)
    torch.testing.assert_close(mixup(inputs[:1], samples[:1])[0], inputs[:1], rtol=0, atol=0)
    assert mixup(inputs[:1], samples[:1])[1] == samples[:1]  # a single image has no partner
    mixup.enabled = False
    out, out_samples = mixup(inputs, samples)
    assert out is inputs and out_samples is samples


@pytest.mark.parametrize('kwargs', [dict(prob=-1), dict(beta_range=(0.6, 0.4))])
def test_mixup_refuses(kwargs):
    with pytest.raises(ValueError, match='must'):
        BatchMixUp(**kwargs)


# --------------------------------------------------------------------------------- multi-scale


def test_scales_are_the_published_ones():
    fixture = np.load(osp.join(FIXTURES, 'generate_scales.npz'))
    assert len(fixture.files) == 9
    for name in fixture.files:
        base_size, repeat = map(int, name.split('_'))
        assert generate_scales(base_size, repeat) == fixture[name].tolist()


def test_resize_by_hand():
    inputs, samples = make_batch()
    inputs[0, 0, ::2, ::3] = 5.0
    kept, before = inputs.clone(), snapshot(samples)
    augment = BatchRandomSize()
    augment._draw_size = lambda base_hw: (32, 288)  # half the height, three times the width
    resized, new_samples = augment(inputs, samples)

    assert resized.shape == (3, 3, 32, 288)
    # nearest: every other row, every column three times
    assert torch.equal(resized, inputs[:, :, ::2].repeat_interleave(3, dim=-1))
    assert new_samples[0].gt_instances.bboxes.tolist() == [[3, 1, 90, 20], [15, 2.5, 30, 5]]
    assert new_samples[0].gt_instances.labels.tolist() == [0, 1]
    assert [s.img_shape for s in new_samples] == [(32, 240), (24, 288), (16, 288)]
    assert {s.batch_input_shape for s in new_samples} == {(32, 288)}
    assert {s.pad_shape for s in new_samples} == {(32, 288)}
    assert torch.equal(inputs, kept)
    assert_untouched(samples, before)


@pytest.mark.parametrize(
    'base_hw, drawn',
    [
        # sides: from the list around the longer one, the other in proportion, in multiples of 32
        ((640, 640), {(s, s) for s in generate_scales(640, 1)}),
        ((320, 320), {(s, s) for s in (224, 256, 288, 320, 352, 384)}),
        # 192 of 320 is 0.6: 224 -> 134, 256 -> 154, 288 -> 173, 320, 352 -> 211, 384 -> 230
        (
            (192, 320),
            {(128, 224), (160, 256), (160, 288), (192, 320), (224, 352), (224, 384)},
        ),
        # 384 416 448 480 | 512 | 640 608 576 544; 7.5 and 8.5 times 32 are rounded to 8
        (
            (512, 256),
            {(384, 192), (416, 192), (448, 224), (480, 256), (512, 256)}
            | {(640, 320), (608, 320), (576, 288), (544, 256)},
        ),
    ],
)
def test_sizes_that_are_drawn(base_hw, drawn):
    augment = BatchRandomSize(repeat=1)
    sizes = {augment._draw_size(base_hw) for _ in range(600)}
    assert sizes == drawn


def test_share_of_the_base_size():
    augment = BatchRandomSize(repeat=20)
    share = np.mean([augment._draw_size((640, 640)) == (640, 640) for _ in range(1500)])
    assert abs(share - 20 / 30) < 0.04  # 3.3 standard deviations


def test_size_is_taken_from_the_batch_or_given():
    inputs, samples = make_batch()
    seen = []
    for augment in (BatchRandomSize(), BatchRandomSize(128), BatchRandomSize((128, 96))):
        augment._draw_size = lambda base_hw: seen.append(base_hw) or base_hw
        augment(inputs, samples)
    assert seen == [(64, 96), (128, 128), (128, 96)]


def test_resize_stays_away():
    inputs, samples = make_batch()
    augment = BatchRandomSize(128)
    augment.enabled = False
    out, out_samples = augment(inputs, samples)
    assert out is inputs and out_samples is samples


@pytest.mark.parametrize('kwargs', [dict(repeat=0), dict(divisor=0), dict(base_size=16)])
def test_resize_refuses(kwargs):
    with pytest.raises(ValueError, match='must be at least'):
        BatchRandomSize(**kwargs)


# -------------------------------------------------------------------- in the data preprocessor


def test_in_the_data_preprocessor():
    preprocessor = MODELS.build(
        dict(
            type='DetDataPreprocessor',
            mean=[0, 0, 0],
            std=[255, 255, 255],
            pad_size_divisor=32,
            batch_augments=[
                dict(type='BatchMixUp', prob=1, beta_range=(0.5, 0.5)),
                dict(type='BatchRandomSize', repeat=1),
            ],
        )
    )
    inputs = [torch.full((3, 60, 90), 51, dtype=torch.uint8), torch.zeros(3, 64, 80).byte()]
    samples = [make_sample([(0, 0, 48, 32)], (60, 90)), make_sample([(8, 8, 16, 16)], (64, 80))]
    data = dict(inputs=inputs, data_samples=copy.deepcopy(samples))
    for _ in range(5):
        out = preprocessor(copy.deepcopy(data), training=True)
        height, width = out['inputs'].shape[-2:]
        assert height % 32 == 0 and width % 32 == 0
        # half of 51 / 255 everywhere where the first image is, in both
        torch.testing.assert_close(
            out['inputs'][:, :, : int(height * 50 / 64), : int(width * 70 / 96)].amax((1, 2, 3)),
            torch.tensor([0.1, 0.1]),
        )
        for sample in out['data_samples']:
            assert len(sample.gt_instances) == 2
            assert sample.batch_input_shape == (height, width)
            largest = sample.gt_instances.bboxes.max(dim=0).values
            torch.testing.assert_close(largest[2:], torch.tensor([width / 2, height / 2]))
    out = preprocessor(copy.deepcopy(data), training=False)
    assert out['inputs'].shape == (2, 3, 64, 96)
    assert [len(sample.gt_instances) for sample in out['data_samples']] == [1, 1]
    assert preprocessor.state_dict() == {}
