# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn


def generate_scales(base_size: int, repeat: int, divisor: int = 32) -> List[int]:
    """The training sizes: from 3/4 of the base size up, the base size, from 5/4 of it down.

    Args:
        base_size (int): Base size in pixels.
        repeat (int): How often the base size is in the list.
        divisor (int): Sizes are multiples of it, and as far apart. Defaults to 32.

    Returns:
        list[int]: Sizes in pixels; for (640, 1): 480, 512, 544, 576, 608, 640, 800, 768, 736, 704,
        672.
    """
    smallest = int(base_size * 0.75 / divisor) * divisor
    largest = int(base_size * 1.25 / divisor) * divisor
    steps = range((base_size - smallest) // divisor)
    return [
        *(smallest + i * divisor for i in steps),
        *[base_size] * repeat,
        *(largest - i * divisor for i in steps),
    ]


@MODELS.register_module()
class BatchRandomSize(nn.Module):
    """Resizes every batch to a size drawn anew: multi-scale training.

    The longer side is drawn from :func:`generate_scales`; the other follows, rounded to the
    divisor. So square images stay square, and others keep their aspect as well as it can be.

    For ``DetDataPreprocessor(batch_augments=[...])`` of any detector, after ``BatchMixUp``.
    ``DenseO2OHook`` switches it off (:attr:`enabled`) where the last stage begins; without the hook
    it stays on. Every rank draws for itself.

    Source: RT-DETR, D-FINE and DEIM as published.

    Args:
        base_size (int | tuple[int], optional): Size in pixels, or (height, width), that the list
            of sizes is built around. By default that of the batch.
        repeat (int): How often the base size is in the list. Defaults to 3.
        divisor (int): Sides are multiples of it. Defaults to 32.
        interpolation (str): Mode of ``torch.nn.functional.interpolate``. Defaults to 'nearest'.

    Attributes:
        enabled (bool): Whether batches are resized at all.

    Raises:
        ValueError: If ``repeat`` or ``divisor`` is out of its range, or ``base_size`` is smaller
            than ``divisor``.
    """

    def __init__(
        self,
        base_size: Optional[Sequence[int]] = None,
        repeat: int = 3,
        divisor: int = 32,
        interpolation: str = 'nearest',
    ):
        super().__init__()
        if isinstance(base_size, int):
            base_size = (base_size, base_size)
        if repeat < 1 or divisor < 1:
            raise ValueError(
                f'repeat and divisor must be at least 1, but got repeat={repeat}, divisor={divisor}'
            )
        if base_size is not None and min(base_size) < divisor:
            raise ValueError(f'base_size must be at least {divisor} (divisor), but got {base_size}')
        self.base_size = None if base_size is None else tuple(base_size)
        self.repeat = repeat
        self.divisor = divisor
        self.interpolation = interpolation
        self.enabled = True

    def forward(
        self, inputs: Tensor, data_samples: Sequence[DetDataSample]
    ) -> Tuple[Tensor, List[DetDataSample]]:
        """Resizes a batch, or hands it on.

        Args:
            inputs (Tensor): Images, shape (bs, 3, H, W).
            data_samples (Sequence[DetDataSample]): Their annotations, boxes in pixels.

        Returns:
            tuple[Tensor, list[DetDataSample]]: Images and annotations. Those that came in stay as
            they are.
        """
        if not self.enabled:
            return inputs, data_samples
        old_hw = tuple(inputs.shape[-2:])
        new_hw = self._draw_size(self.base_size or old_hw)
        if new_hw == old_hw:
            return inputs, data_samples
        inputs = F.interpolate(inputs, size=new_hw, mode=self.interpolation)
        return inputs, [_resize_sample(sample, old_hw, new_hw) for sample in data_samples]

    def _draw_size(self, base_hw: Tuple[int, int]) -> Tuple[int, int]:
        longer = max(base_hw)
        sizes = generate_scales(longer, self.repeat, self.divisor)
        size = sizes[torch.randint(len(sizes), ()).item()]
        return tuple(
            max(1, round(side * size / longer / self.divisor)) * self.divisor for side in base_hw
        )

    def extra_repr(self) -> str:
        return (
            f'base_size={self.base_size}, repeat={self.repeat}, divisor={self.divisor}, '
            f'interpolation={self.interpolation!r}'
        )


def _resize_sample(sample: DetDataSample, old_hw: tuple, new_hw: tuple) -> DetDataSample:
    """A new sample for the resized batch."""
    scale_hw = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    resized = sample.new()
    resized.set_metainfo(dict(batch_input_shape=new_hw))
    for key in ('img_shape', 'pad_shape'):
        if key in sample.metainfo_keys():
            sides = zip(sample.get(key)[:2], scale_hw)
            resized.set_metainfo({key: tuple(round(side * scale) for side, scale in sides)})
    for key in ('gt_instances', 'ignored_instances'):
        if key in sample:
            setattr(resized, key, _resize_instances(sample.get(key), scale_hw, new_hw))
    return resized


def _resize_instances(instances: InstanceData, scale_hw: tuple, new_hw: tuple) -> InstanceData:
    scale_h, scale_w = scale_hw
    resized = instances.new()
    if 'bboxes' in instances:
        boxes = instances.bboxes
        if isinstance(boxes, Tensor):
            # plain numbers: a tensor of factors would have to be copied to the device first
            resized.bboxes = boxes * scale_w
            resized.bboxes[:, 1::2] = boxes[:, 1::2] * scale_h
        else:
            resized.bboxes = boxes.clone()
            resized.bboxes.rescale_([scale_w, scale_h])
    if 'masks' in instances:
        resized.masks = instances.masks.resize(new_hw)
    return resized
