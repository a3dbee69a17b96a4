# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Dict, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def synthetic_batch(
    batch_size: int, hw: Tuple[int, int], objects: int, num_classes: int
) -> Dict[str, list]:
    """Noise images with random boxes inside them, as a collated batch of the data loader.

    Args:
        batch_size (int): Images.
        hw (tuple[int, int]): Their height and width.
        objects (int): In each image.
        num_classes (int): Number of classes.

    Returns:
        dict[str, list]: ``inputs``, each (3, H, W), uint8, and ``data_samples``. A box takes from 2
        to 22 % of each side.
    """
    height, width = hw
    samples = []
    for _ in range(batch_size):
        wh = 0.02 + 0.2 * torch.rand(objects, 2)
        centre = wh / 2 + (1 - wh) * torch.rand(objects, 2)
        boxes = torch.cat([centre - wh / 2, centre + wh / 2], dim=1)
        meta = dict(img_shape=hw, ori_shape=hw, scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=boxes * boxes.new_tensor([width, height, width, height]),
            labels=torch.randint(num_classes, (objects,)),
        )
        samples.append(sample)
    images = list(torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8))
    return dict(inputs=images, data_samples=samples)
