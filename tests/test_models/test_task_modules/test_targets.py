# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from deim_mmdet.models.task_modules import BatchTargets


def data_sample(bboxes, labels, **metainfo):
    sample = DetDataSample(metainfo=metainfo)
    sample.gt_instances = InstanceData(bboxes=bboxes, labels=torch.tensor(labels).long())
    return sample


def test_from_data_samples():
    shape = dict(img_shape=(100, 400))
    boxes = torch.tensor([[40.0, 20, 80, 60], [0, 0, 400, 100]])
    samples = [
        data_sample(boxes, [3, 1], **shape),
        data_sample(torch.zeros(0, 4), [], **shape),
        data_sample(HorizontalBoxes(boxes[:1].clone()), [2], **shape),
    ]
    targets = BatchTargets.from_data_samples(samples, (200, 400), torch.device('cpu'))

    assert targets.counts == [2, 0, 1]
    assert (targets.batch_size, targets.max_count) == (3, 2)
    assert targets.labels.tolist() == [3, 1, 2]
    assert targets.batch_index.tolist() == [0, 0, 2]
    assert targets.slot_index.tolist() == [0, 1, 0]
    # in units of the padded input, 400 x 200: centre (60, 40), size (40, 40)
    first = [60 / 400, 40 / 200, 40 / 400, 40 / 200]
    # the image is 100 high, half of the padded input
    expected = torch.tensor([first, [0.5, 0.25, 1, 0.5], first])
    torch.testing.assert_close(targets.boxes, expected)
    # the ground truth stays as it was
    assert boxes[0].tolist() == [40, 20, 80, 60]
    assert samples[2].gt_instances.bboxes.tensor[0].tolist() == [40, 20, 80, 60]


def test_in_units_of_each_image():
    first = torch.tensor([[40.0, 20, 80, 60], [0, 0, 400, 100]])
    samples = [
        data_sample(first, [3, 1], img_shape=(100, 400)),
        data_sample(torch.zeros(0, 4), [], img_shape=(1, 1)),
        data_sample(torch.tensor([[0.0, 50, 100, 200]]), [2], img_shape=(200, 100)),
    ]
    targets = BatchTargets.in_image_units(samples, torch.device('cpu'))
    assert targets.counts == [2, 0, 1]
    # (x1 + x2) / (2 * width), (y1 + y2) / (2 * height), width, height
    expected = [[0.15, 0.4, 0.1, 0.4], [0.5, 0.5, 1, 1], [0.5, 0.625, 1, 0.75]]
    torch.testing.assert_close(targets.boxes, torch.tensor(expected))


@pytest.mark.parametrize(
    'collect',
    [
        lambda samples, device: BatchTargets.from_data_samples(samples, (32, 32), device),
        BatchTargets.in_image_units,
    ],
)
def test_no_object_at_all(collect):
    samples = [data_sample(torch.zeros(0, 4), [], img_shape=(32, 32))] * 2
    targets = collect(samples, torch.device('cpu'))
    assert targets.counts == [0, 0] and targets.max_count == 0
    assert targets.boxes.shape == (0, 4) and targets.labels.shape == (0,)
    labels, boxes = targets.padded(pad_label=80)
    assert labels.shape == (2, 0) and boxes.shape == (2, 0, 4)


def test_padded():
    boxes = torch.arange(12.0).view(3, 4)
    targets = BatchTargets.from_flat(torch.tensor([5, 6, 7]), boxes, [1, 0, 2])
    labels, padded = targets.padded(pad_label=80)
    assert labels.tolist() == [[5, 80], [80, 80], [6, 7]]
    assert padded[0, 0].tolist() == [0, 1, 2, 3] and padded[2, 1].tolist() == [8, 9, 10, 11]
    assert padded[1].abs().sum() == 0
