# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from typing import List, Sequence, Tuple, Union

import numpy as np
import torch
from mmdet.structures import SampleList
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor


@dataclass(frozen=True)
class BatchTargets:
    """The objects of a batch in one flat list, image after image.

    Args:
        labels (Tensor): Class of each object, shape (T,), long, in [0, num_classes - 1].
        boxes (Tensor): Normalised boxes, shape (T, 4), float32, ordered (cx, cy, w, h), in units
            of the padded input, so that [0, 1] is what the model sees, padding included; from
            :meth:`in_image_units` in units of the image, without its padding.
        batch_index (Tensor): Image of each object, shape (T,), long, ascending.
        slot_index (Tensor): Position of each object within its image, shape (T,), long.
        counts (list[int]): Number of objects of each image, kept on the host; sums to T.
    """

    labels: Tensor
    boxes: Tensor
    batch_index: Tensor
    slot_index: Tensor
    counts: List[int]

    @classmethod
    def from_data_samples(
        cls,
        batch_data_samples: SampleList,
        input_hw: Tuple[int, int],
        device: torch.device,
    ) -> 'BatchTargets':
        """Collect the ground truth of a batch. The data samples are not changed.

        Args:
            batch_data_samples (list[DetDataSample]): With ``gt_instances.bboxes`` in pixels of the
                input, ordered (x1, y1, x2, y2), and ``gt_instances.labels``.
            input_hw (tuple[int, int]): Height and width of the input, padding included.
            device (torch.device): Where the targets are needed.

        Returns:
            BatchTargets: The objects of all images.
        """
        labels, xyxy, counts = _collect(batch_data_samples, device)
        return cls.from_flat(labels, _normalised_cxcywh(xyxy, *input_hw), counts)

    @classmethod
    def in_image_units(cls, batch_data_samples: SampleList, device: torch.device) -> 'BatchTargets':
        """As :meth:`from_data_samples`, with boxes in units of their image without its padding,
        ``img_shape``, as in mmdet's DETRs.
        """
        labels, xyxy, counts = _collect(batch_data_samples, device)
        images_hw = [sample.img_shape[:2] for sample in batch_data_samples]
        hw_of_objects = np.repeat(np.float32(images_hw), counts, axis=0).T  # (2, T)
        boxes = _normalised_cxcywh(xyxy, *torch.from_numpy(hw_of_objects.copy()).to(device))
        return cls.from_flat(labels, boxes, counts)

    @classmethod
    def from_flat(cls, labels: Tensor, boxes: Tensor, counts: Sequence[int]) -> 'BatchTargets':
        """Add the bookkeeping to objects that are already one list, image after image.

        Args:
            labels (Tensor): Shape (T,).
            boxes (Tensor): Normalised boxes, shape (T, 4), ordered (cx, cy, w, h).
            counts (Sequence[int]): Number of objects of each image; sums to T.

        Returns:
            BatchTargets: On the device of ``boxes``.
        """
        counts = [int(count) for count in counts]
        assert sum(counts) == len(labels) == len(boxes)
        slots = [np.arange(count) for count in counts]
        where = np.stack((np.repeat(np.arange(len(counts)), counts), np.concatenate(slots)))
        batch_index, slot_index = torch.from_numpy(where).to(boxes.device, non_blocking=True)
        return cls(labels.long(), boxes.float(), batch_index, slot_index, counts)

    @property
    def batch_size(self) -> int:
        """Number of images, those without objects included."""
        return len(self.counts)

    @property
    def max_count(self) -> int:
        """M, the most objects an image of the batch has; 0 if none has any."""
        return max(self.counts)

    def padded(self, pad_label: int) -> Tuple[Tensor, Tensor]:
        """The objects as one row of slots per image.

        Args:
            pad_label (int): Label of the slots without an object; their boxes are 0.

        Returns:
            tuple[Tensor, Tensor]: Labels, shape (bs, M), and boxes, shape (bs, M, 4).
        """
        labels = self.labels.new_full((self.batch_size, self.max_count), pad_label)
        boxes = self.boxes.new_zeros((self.batch_size, self.max_count, 4))
        labels[self.batch_index, self.slot_index] = self.labels
        boxes[self.batch_index, self.slot_index] = self.boxes
        return labels, boxes


def _collect(
    batch_data_samples: SampleList, device: torch.device
) -> Tuple[Tensor, Tensor, List[int]]:
    """Labels (T,), boxes (T, 4) as xyxy in pixels, and the number of objects of each image."""
    instances = [sample.gt_instances for sample in batch_data_samples]
    boxes = torch.cat([get_box_tensor(x.bboxes).reshape(-1, 4) for x in instances])
    labels = torch.cat([x.labels.reshape(-1) for x in instances])
    return labels.to(device), boxes.to(device), [len(x.labels) for x in instances]


def _normalised_cxcywh(
    xyxy: Tensor, height: Union[int, Tensor], width: Union[int, Tensor]
) -> Tensor:
    # with Python numbers as factors nothing has to be copied to the device
    x1, y1, x2, y2 = xyxy.float().unbind(-1)
    cx, cy = (x1 + x2) * (0.5 / width), (y1 + y2) * (0.5 / height)
    return torch.stack((cx, cy, (x2 - x1) * (1 / width), (y2 - y1) * (1 / height)), dim=-1)
