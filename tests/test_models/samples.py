# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Sequence, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from tests.fixtures import fill


def data_samples(
    counts: Sequence[int], hw: Tuple[int, int] = (256, 256), num_classes: int = 80
) -> List[DetDataSample]:
    """One sample per entry of ``counts`` with so many random objects, boxes in pixels of the
    input.
    """
    samples = []
    for target in fill.targets(counts, num_classes):
        boxes = torch.from_numpy(target['boxes'])
        xyxy = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
        sample = DetDataSample(
            metainfo=dict(img_shape=hw, batch_input_shape=hw, ori_shape=hw, scale_factor=(1.0, 1.0))
        )
        sample.gt_instances = InstanceData(
            bboxes=xyxy * torch.tensor([hw[1], hw[0], hw[1], hw[0]]).float(),
            labels=torch.from_numpy(target['labels']),
        )
        samples.append(sample)
    return samples
