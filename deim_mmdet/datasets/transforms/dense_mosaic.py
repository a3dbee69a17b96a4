# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import List, Sequence, Tuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes, autocast_box_type

# What would have to move with the image, and does not.
UNSUPPORTED_KEYS = ('gt_masks', 'gt_seg_map', 'gt_keypoints')


@TRANSFORMS.register_module()
class DenseMosaic(BaseTransform):
    """Four images on one canvas: four times the objects, so four times the positive matches.

    Each image is resized to the same short side, its aspect kept. A tile is as high as the highest
    and as wide as the widest of the four, the canvas is two tiles by two, and every image stands in
    the top left corner of its tile. Then the whole canvas is rotated, scaled and shifted at random.
    Unlike mmdet's ``Mosaic`` there is no random centre, and no image is cropped.

    The other three images come from ``mix_results``, which ``MixedImageDataset`` and mmdet's
    ``MultiImageMixDataset`` fill after asking :meth:`get_indexes`.

    Source: DEIM, arXiv 2412.04234, section 3.2 (Dense O2O).

    Required keys: img (np.uint8), mix_results (three dicts; none leaves the image as it is),
    gt_bboxes (BaseBoxes or np.ndarray), gt_bboxes_labels, gt_ignore_flags (optional).
    Modified keys: img, img_shape, the gt_* above; added: mix_img_paths.

    Args:
        short_side (int): Short side of each of the four images in pixels. Defaults to 320.
        max_rotation (float): Largest rotation in degrees, either way. Defaults to 10.
        max_translation (float): Largest shift as a share of the canvas, either way.
            Defaults to 0.1.
        scale_range (tuple[float]): Smallest and largest scale. Defaults to (0.5, 1.5).
        fill (int): Value of pixels that no image covers. Defaults to 0.
        prob (float): How often a mosaic is made. Defaults to 1.

    Raises:
        ValueError: If an argument is out of its range.
        NotImplementedError: If the image comes with masks, key points or a segmentation map.
    """

    def __init__(
        self,
        short_side: int = 320,
        max_rotation: float = 10.0,
        max_translation: float = 0.1,
        scale_range: Tuple[float, float] = (0.5, 1.5),
        fill: int = 0,
        prob: float = 1.0,
    ):
        if short_side < 1:
            raise ValueError(f'short_side must be at least 1 pixel, but got {short_side}')
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f'scale_range must be 0 < smallest <= largest, but got {scale_range}')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], but got {prob}')
        self.short_side = short_side
        self.max_rotation = max_rotation
        self.max_translation = max_translation
        self.scale_range = tuple(scale_range)
        self.fill = fill
        self.prob = prob

    def get_indexes(self, dataset: Sequence) -> List[int]:
        """Draws the other three images, uniformly; an empty list when there will be no mosaic."""
        if np.random.random() >= self.prob:
            return []
        return np.random.randint(len(dataset), size=3).tolist()

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Makes the mosaic of an image and its ``mix_results``.

        Args:
            results (dict): The image, with the other three in ``mix_results``.

        Returns:
            dict: The same dict with the mosaic in it. Arrays and boxes that came in are unchanged.
        """
        if not results.get('mix_results'):
            return results
        parts = [results, *results['mix_results']]
        _check_parts(parts)

        images, boxes = zip(*(self._resize(part) for part in parts))
        canvas, origins = self._arrange(images)
        boxes = np.concatenate([b + np.tile(origin, 2) for b, origin in zip(boxes, origins)])

        matrix = self._random_affine(canvas.shape[:2])
        img = warp_image(canvas, matrix, self.fill)
        boxes = map_boxes(boxes, matrix, img.shape[:2])
        visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)

        results['img'] = img
        results['img_shape'] = img.shape[:2]
        results['gt_bboxes'] = HorizontalBoxes(boxes[visible].astype(np.float32), clone=False)
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            if key in results:
                results[key] = np.concatenate([part[key] for part in parts])[visible]
        results['mix_img_paths'] = [part.get('img_path') for part in parts]
        return results

    def _resize(self, part: dict) -> Tuple[np.ndarray, np.ndarray]:
        """The image with its short side resized, and its boxes as (n, 4) xyxy in pixels."""
        height, width = part['img'].shape[:2]
        scale = self.short_side / min(height, width)
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        # below one half, linear interpolation would skip pixels, and small objects with them
        interpolation = cv2.INTER_AREA if scale <= 0.5 else cv2.INTER_LINEAR
        img = cv2.resize(part['img'], size_wh, interpolation=interpolation)
        scale_wh = np.array([size_wh[0] / width, size_wh[1] / height])
        return img, part['gt_bboxes'].tensor.numpy() * np.tile(scale_wh, 2)

    def _arrange(self, images: Sequence[np.ndarray]) -> Tuple[np.ndarray, List[tuple]]:
        """The canvas of 2 x 2 tiles, and where (x, y) each image begins on it."""
        tile_h = max(img.shape[0] for img in images)
        tile_w = max(img.shape[1] for img in images)
        origins = [(0, 0), (tile_w, 0), (0, tile_h), (tile_w, tile_h)]
        canvas = np.full((2 * tile_h, 2 * tile_w, *images[0].shape[2:]), self.fill, images[0].dtype)
        for img, (x, y) in zip(images, origins):
            canvas[y : y + img.shape[0], x : x + img.shape[1]] = img
        return canvas, origins

    def _random_affine(self, shape_hw: Tuple[int, int]) -> np.ndarray:
        """A random turn and scale about the centre and a shift: (2, 3), for (x, y, 1) in pixels."""
        height, width = shape_hw
        angle = np.random.uniform(-self.max_rotation, self.max_rotation)
        scale = np.random.uniform(*self.scale_range)
        shift = np.random.uniform(-self.max_translation, self.max_translation, size=2)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        matrix[:, 2] += np.round(shift * (width, height))
        return matrix

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(short_side={self.short_side}, '
            f'max_rotation={self.max_rotation}, max_translation={self.max_translation}, '
            f'scale_range={self.scale_range}, fill={self.fill}, prob={self.prob})'
        )


def warp_image(img: np.ndarray, matrix: np.ndarray, fill: int) -> np.ndarray:
    """Warps an image onto a canvas of the same size.

    Args:
        img (np.ndarray): Image, shape (h, w, 3) or (h, w).
        matrix (np.ndarray): Affine map (2, 3) of coordinates in pixels, where a pixel is the
            square from its index to the next one, as boxes count.
        fill (int): Value of pixels from outside the image.

    Returns:
        np.ndarray: Image of the same shape.
    """
    # OpenCV has a pixel's centre at its index, boxes have it half a pixel further
    matrix = matrix.copy()
    matrix[:, 2] += 0.5 * matrix[:, :2].sum(axis=1) - 0.5
    return cv2.warpAffine(
        img, matrix, img.shape[1::-1], flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3
    )


def map_boxes(boxes: np.ndarray, matrix: np.ndarray, shape_hw: Tuple[int, int]) -> np.ndarray:
    """The upright boxes around mapped boxes, cut at the border of the image.

    Args:
        boxes (np.ndarray): Boxes (n, 4), xyxy in pixels.
        matrix (np.ndarray): Affine map (2, 3) of (x, y, 1).
        shape_hw (tuple[int]): Height and width of the image.

    Returns:
        np.ndarray: Boxes (n, 4), xyxy in pixels; empty where nothing is left inside.
    """
    # (n, 4) -> (n, 4 corners, xy)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    corners = corners.clip(0, shape_hw[::-1])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _check_parts(parts: List[dict]) -> None:
    if len(parts) != 4:
        raise ValueError(
            f'DenseMosaic needs three dicts in mix_results, but got {len(parts) - 1}; let '
            'MixedImageDataset fill it'
        )
    for key in UNSUPPORTED_KEYS:
        if key in parts[0]:
            raise NotImplementedError(
                f'DenseMosaic moves images and boxes, but not {key}; take it out of '
                'LoadAnnotations (with_mask=False, with_seg=False)'
            )
