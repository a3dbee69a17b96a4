# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from .contiguous_flip import ContiguousFlip
from .dense_mosaic import DenseMosaic
from .dense_o2o import DenseO2O
from .dense_o2o_stage import DenseO2OStage, dense_o2o_stage
from .max_iou_random_crop import MaxIoURandomCrop
from .photometric_distort import PhotometricDistort
from .zoom_out import ZoomOut

__all__ = [
    'ContiguousFlip',
    'DenseMosaic',
    'DenseO2O',
    'DenseO2OStage',
    'MaxIoURandomCrop',
    'PhotometricDistort',
    'ZoomOut',
    'dense_o2o_stage',
]
