# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Tuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

Out = Optional[np.ndarray]

# shares of blue, green and red in grey, ITU-R BT.601
GREY_BGR = np.array([0.114, 0.587, 0.299], dtype=np.float32)


@TRANSFORMS.register_module()
class PhotometricDistort(BaseTransform):
    """Random brightness, contrast, saturation, hue and order of channels, in 8 bits.

    Each of the five happens with probability ``prob``; contrast comes second or second to last, one
    as often as the other. Brightness multiplies, contrast and saturation mix the image with its
    mean grey and with its own grey version, and every step is clipped to [0, 255].

    Differs from mmdet's ``PhotoMetricDistortion``, which adds brightness, scales contrast about
    black, and hands on float32 images that leave [0, 255]: four times the memory through resizing,
    the worker's pipe and the copy to the device.

    Source: SSD (arXiv 1512.02325), in the form that RT-DETR, D-FINE and DEIM train with.

    Required and modified key: img (np.uint8, shape (h, w, 3), BGR).

    Args:
        brightness (tuple[float]): Range of the factor of brightness. Defaults to (0.875, 1.125).
        contrast (tuple[float]): Range of the share of the image. Defaults to (0.5, 1.5).
        saturation (tuple[float]): Range of the share of the image. Defaults to (0.5, 1.5).
        hue (tuple[float]): Range of the turn of hue, in whole turns. Defaults to (-0.05, 0.05).
        prob (float): How often each of the five happens. Defaults to 0.5.

    Raises:
        TypeError: If an image is not uint8 with three channels.
    """

    def __init__(
        self,
        brightness: Tuple[float, float] = (0.875, 1.125),
        contrast: Tuple[float, float] = (0.5, 1.5),
        saturation: Tuple[float, float] = (0.5, 1.5),
        hue: Tuple[float, float] = (-0.05, 0.05),
        prob: float = 0.5,
    ):
        self.brightness = tuple(brightness)
        self.contrast = tuple(contrast)
        self.saturation = tuple(saturation)
        self.hue = tuple(hue)
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Distorts the colours of an image.

        Args:
            results (dict): Has the image under ``img``.

        Returns:
            dict: The same dict with another image.
        """
        img = results['img']
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise TypeError(
                f'PhotometricDistort needs a uint8 image with 3 channels, but got {img.dtype} of '
                f'shape {img.shape}; put it before transforms that change the type'
            )
        out = None  # the first step writes a new image, the others work in it
        contrast_first = np.random.random() < 0.5
        distort_contrast = self._happens()
        if self._happens():
            img = out = change_brightness(img, np.random.uniform(*self.brightness), out)
        if distort_contrast and contrast_first:
            img = out = change_contrast(img, np.random.uniform(*self.contrast), out)
        if self._happens():
            img = out = change_saturation(img, np.random.uniform(*self.saturation), out)
        if self._happens():
            img = out = turn_hue(img, np.random.uniform(*self.hue), out)
        if distort_contrast and not contrast_first:
            img = out = change_contrast(img, np.random.uniform(*self.contrast), out)
        if self._happens():
            img = reorder_channels(img, np.random.permutation(3), out)
        results['img'] = img
        return results

    def _happens(self) -> bool:
        return np.random.random() < self.prob

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(brightness={self.brightness}, contrast={self.contrast}, '
            f'saturation={self.saturation}, hue={self.hue}, prob={self.prob})'
        )


# Each of these takes the image (h, w, 3), BGR, uint8, and returns the new one: a new array, or
# ``out``, which may be the image itself.


def change_brightness(img: np.ndarray, factor: float, out: Out = None) -> np.ndarray:
    """``factor`` times the image."""
    return cv2.convertScaleAbs(img, dst=out, alpha=factor)


def change_contrast(img: np.ndarray, share: float, out: Out = None) -> np.ndarray:
    """``share`` of the image and the rest of its mean grey."""
    grey = float(GREY_BGR @ cv2.mean(img)[:3])
    return cv2.addWeighted(img, share, img, 0.0, (1 - share) * grey, dst=out)


def change_saturation(img: np.ndarray, share: float, out: Out = None) -> np.ndarray:
    """``share`` of the image and the rest of its grey version."""
    # one colour matrix: every channel gets the same share of grey
    mixed = share * np.eye(3, dtype=np.float32) + (1 - share) * GREY_BGR
    return cv2.transform(img, mixed, dst=out)


def turn_hue(img: np.ndarray, turn: float, out: Out = None) -> np.ndarray:
    """The image with its hue moved by ``turn`` whole turns."""
    hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV_FULL, dst=out)
    # 256 levels are a whole turn, so hue may run over; a row of steps for all channels is ten times
    # as fast as one channel alone
    steps = np.tile(np.array([round(turn * 256) % 256, 0, 0], np.uint8), img.shape[1])
    rows = hsv.reshape(len(hsv), -1)
    np.add(rows, steps, out=rows)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL, dst=hsv)


def reorder_channels(img: np.ndarray, order: np.ndarray, out: Out = None) -> np.ndarray:
    """The image with channel ``order[c]`` as its channel c."""
    return cv2.transform(img, np.eye(3, dtype=np.float32)[order], dst=out)
