# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from . import batch, transforms
from .coco import CheckedCocoDataset
from .coco_metric import CheckedCocoMetric
from .digits_in_scenes import DigitsInScenes
from .loading import CheckImageFile, LoadReadableImage, UnreadableImagesHook
from .mixed_image_dataset import MixedImageDataset
from .num_classes_hook import CheckClassesHook

__all__ = [
    'CheckClassesHook',
    'CheckedCocoDataset',
    'CheckedCocoMetric',
    'DigitsInScenes',
    'CheckImageFile',
    'LoadReadableImage',
    'MixedImageDataset',
    'UnreadableImagesHook',
    'batch',
    'transforms',
]
