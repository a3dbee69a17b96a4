# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence, Tuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type


@TRANSFORMS.register_module()
class MaxIoURandomCrop(BaseTransform):
    """Random crop whose best covered object has a drawn IoU with the crop: DETR's "IoU crop".

    A threshold is drawn, then crops are tried; the first is taken whose sides are in range, that
    contains the centre of an object, and whose highest IoU with such an object reaches the
    threshold. Objects whose centre is outside are dropped, the others cut at the border. When no
    trial fits, another threshold is drawn; the threshold 1 keeps the image as it is.

    Differs from mmdet's ``MinIoURandomCrop``, which asks **every** object of the image for the
    threshold, and so hardly crops scenes of many objects; and which crops images without objects.
    Ours leaves those alone.

    Source: the crop of SSD (arXiv 1512.02325) in the form that RT-DETR, D-FINE and DEIM train with.

    Required keys: img, gt_bboxes. Modified keys: img, img_shape, gt_bboxes, gt_bboxes_labels,
    gt_ignore_flags, gt_masks, gt_seg_map.

    Args:
        prob (float): How often the crop is tried at all. Defaults to 0.8.
        min_ious (Sequence[float]): Thresholds to draw from. Defaults to
            (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1).
        side_range (tuple[float]): Sides of the crop as a share of those of the image.
            Defaults to (0.3, 1).
        aspect_range (tuple[float]): Width divided by height of the crop. Defaults to (0.5, 2).
        trials (int): Crops tried per threshold. Defaults to 40.

    Raises:
        ValueError: If 1 is not among the thresholds, since the search could then be endless.
    """

    def __init__(
        self,
        prob: float = 0.8,
        min_ious: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        side_range: Tuple[float, float] = (0.3, 1.0),
        aspect_range: Tuple[float, float] = (0.5, 2.0),
        trials: int = 40,
    ):
        if max(min_ious) < 1:
            raise ValueError(
                f'min_ious must have 1, which keeps the image as it is, but got {min_ious}'
            )
        self.prob = prob
        self.min_ious = tuple(min_ious)
        self.side_range = tuple(side_range)
        self.aspect_range = tuple(aspect_range)
        self.trials = trials

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Crops an image and what is annotated in it.

        Args:
            results (dict): The image and its annotations.

        Returns:
            dict: The same dict.
        """
        boxes = results['gt_bboxes']
        if np.random.random() >= self.prob or len(boxes) == 0:
            return results
        crop = self._find_crop(boxes.tensor.numpy(), results['img'].shape[:2])
        if crop is None:
            return results

        left, top, right, bottom = crop
        kept = _centres_inside(boxes.tensor.numpy(), crop[None])[0]
        boxes = boxes[kept]
        boxes.translate_([-left, -top])
        boxes.clip_([bottom - top, right - left])
        results['gt_bboxes'] = boxes
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            if key in results:
                results[key] = results[key][kept]
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'][np.flatnonzero(kept)].crop(crop)
        for key in ('img', 'gt_seg_map'):
            if results.get(key) is not None:
                results[key] = results[key][top:bottom, left:right]
        results['img_shape'] = results['img'].shape[:2]
        return results

    def _find_crop(self, boxes: np.ndarray, shape_hw: Tuple[int, int]) -> Optional[np.ndarray]:
        """The crop as xyxy in whole pixels, or None to keep the image."""
        while True:
            min_iou = np.random.choice(self.min_ious)
            if min_iou >= 1:
                return None
            crops = self._draw_crops(shape_hw)
            # (trials, objects)
            ious = _pairwise_iou(crops, boxes) * _centres_inside(boxes, crops)
            fits = _centres_inside(boxes, crops).any(axis=1) & (ious.max(axis=1) >= min_iou)
            fits &= self._in_range(crops)
            if fits.any():
                return crops[fits.argmax()]

    def _draw_crops(self, shape_hw: Tuple[int, int]) -> np.ndarray:
        """Crops (trials, 4), xyxy in whole pixels."""
        size_wh = np.array(shape_hw[::-1])
        sides = (np.random.uniform(*self.side_range, size=(self.trials, 2)) * size_wh).astype(int)
        begin = ((size_wh - sides) * np.random.random((self.trials, 2))).astype(int)
        return np.concatenate([begin, begin + sides], axis=1)

    def _in_range(self, crops: np.ndarray) -> np.ndarray:
        width, height = (crops[:, 2:] - crops[:, :2]).T
        smallest, largest = self.aspect_range
        return (
            (width > 0) & (height > 0) & (width >= smallest * height) & (width <= largest * height)
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(prob={self.prob}, min_ious={self.min_ious}, '
            f'side_range={self.side_range}, aspect_range={self.aspect_range}, '
            f'trials={self.trials})'
        )


def _centres_inside(boxes: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Whether the centre of each box is strictly inside each crop: (crops, boxes)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])).all(axis=-1)


def _pairwise_iou(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of each crop with each box: (crops, boxes)."""
    begin = np.maximum(crops[:, None, :2], boxes[:, :2])
    end = np.minimum(crops[:, None, 2:], boxes[:, 2:])
    inter = (end - begin).clip(min=0).prod(axis=-1)
    areas = (crops[:, 2:] - crops[:, :2]).prod(axis=-1)[:, None]
    union = areas + (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) - inter
    return inter / np.maximum(union, 1e-9)
