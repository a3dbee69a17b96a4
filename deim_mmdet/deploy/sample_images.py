# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Images to compare and to calibrate exported files on."""

import os
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config

from deim_mmdet.datasets import digits_in_scenes

from .detector import read_image

ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def sample_images(
    paths: Optional[Sequence[str]], config: Config, hw: Tuple[int, int], count: int = 4
) -> Tuple[List[np.ndarray], str]:
    """The files that are named; else some of the test set; else drawn ones.

    Returns:
        tuple[list[ndarray], str]: Images, uint8, (H, W, 3), BGR, and what they are.
    """
    if paths:
        return [read_image(path) for path in paths], ', '.join(map(str, paths))
    if has_test_set(config):
        images = test_images(config, count)
        return images, f'{len(images)} images of the test set'
    return [draw_scene(hw, i) for i in range(count)], f'{count} drawn scenes'


def has_test_set(config: Config) -> bool:
    """Whether the test set of a config is there."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    if not os.path.isdir(dataset.get('data_root') or ''):
        return False
    try:
        return bool(test_images(config, 1))
    except (OSError, ValueError, KeyError):
        return False


def test_images(config: Config, count: Optional[int] = None) -> List[np.ndarray]:
    """The first images of the test set of a config, or all of them."""
    from mmdet.registry import DATASETS

    dataset = DATASETS.build(dict(config.test_dataloader.dataset, pipeline=[]))
    numbers = range(len(dataset))[:count]
    return [read_image(dataset.get_data_info(i)['img_path']) for i in numbers]


def draw_scene(hw: Tuple[int, int], seed: int) -> np.ndarray:
    """A photograph with handwritten digits on it, uint8, (H, W, 3), BGR."""
    side = max(32, min(hw))
    options = digits_in_scenes.DigitsOptions(
        image_hw=tuple(max(32, h) for h in hw), digit_size=(max(16, side // 10), max(16, side // 3))
    )
    handwriting = digits_in_scenes.load_handwriting()['val']
    photographs = digits_in_scenes.find_photographs()
    rng = np.random.default_rng(seed)
    return digits_in_scenes.draw_scene(rng, handwriting, photographs, options)[0]


def calibration_images(folder: Path, count: int, held_out: int) -> Tuple[List[Path], List[Path]]:
    """Images to calibrate on, and some others, both from everywhere in a folder.

    Args:
        folder (Path): Folder of images, and of folders of them.
        count (int): At most so many to calibrate on.
        held_out (int): At most so many others.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'--calibration-images {folder}: no such folder')
    images = sorted(path for path in folder.rglob('*') if path.suffix.lower() in ENDINGS)
    if not images:
        raise ValueError(
            f'--calibration-images {folder} holds no images (files *{", *".join(ENDINGS)})'
        )
    calibration = spread(images, count)
    return calibration, spread(sorted(set(images).difference(calibration)), held_out)


def spread(values: list, count: int) -> list:
    """So many of them, at equal distances."""
    if len(values) <= count:
        return values
    return [values[i * len(values) // count] for i in range(count)]
