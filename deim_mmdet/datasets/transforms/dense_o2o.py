# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Callable, List, Optional, Sequence, Union

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from .dense_o2o_stage import DenseO2OStage, SharedStage

Transforms = Sequence[Union[dict, Callable]]


@TRANSFORMS.register_module()
class DenseO2O(BaseTransform):
    """The part of the training pipeline that changes with the stage of Dense O2O.

    ==============  =======================================================
    stage           what an image goes through
    ==============  =======================================================
    ``PLAIN_START``  nothing
    ``MOSAIC``       ``mosaic`` with probability ``mosaic_prob``, else ``classic``
    ``CLASSIC``      ``classic``
    ``PLAIN_END``    nothing
    ==============  =======================================================

    ``DenseO2OHook`` sets the stage before every epoch; without the hook it stays at ``stage``. The
    worker processes read it from shared memory, so they may outlive an epoch.

    Use it first in the pipeline of ``MixedImageDataset`` (or mmdet's ``MultiImageMixDataset``),
    which loads the images of a mosaic: three when there will be one, none otherwise. Works with
    any detector and any data set of mmdet::

        dataset=dict(
            type='MixedImageDataset',
            dataset=dict(type='CocoDataset', ..., pipeline=[
                dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]),
            pipeline=[dict(type='DenseO2O'), ..., dict(type='PackDetInputs')])

    Source: DEIM, arXiv 2412.04234, section 3.2 and the published training settings.

    Args:
        mosaic (list[dict | Callable], optional): Transforms of a mosaic, the one that mixes
            images first. Defaults to ``DenseMosaic`` and ``PhotometricDistort``.
        classic (list[dict | Callable], optional): Transforms of a single image. Defaults to
            ``PhotometricDistort``, ``ZoomOut`` and ``MaxIoURandomCrop``.
        mosaic_prob (float): Share of mosaics in the stage ``MOSAIC``. Defaults to 0.5.
        stage (int | DenseO2OStage): Stage before a hook sets one. Defaults to ``MOSAIC``.

    Raises:
        ValueError: If the first of ``mosaic`` has no ``get_indexes``, or ``mosaic_prob`` is not a
            probability.
    """

    def __init__(
        self,
        mosaic: Optional[Transforms] = None,
        classic: Optional[Transforms] = None,
        mosaic_prob: float = 0.5,
        stage: int = DenseO2OStage.MOSAIC,
    ):
        if mosaic is None:
            mosaic = [dict(type='DenseMosaic'), dict(type='PhotometricDistort')]
        if classic is None:
            classic = [
                dict(type='PhotometricDistort'),
                dict(type='ZoomOut'),
                dict(type='MaxIoURandomCrop'),
            ]
        if not 0 <= mosaic_prob <= 1:
            raise ValueError(f'mosaic_prob must be in [0, 1], but got {mosaic_prob}')
        self.mosaic = _build(mosaic)
        self.classic = _build(classic)
        if self.mosaic and not hasattr(self.mosaic[0], 'get_indexes'):
            raise ValueError(
                'The first transform of mosaic must draw the images to mix in get_indexes(), '
                f'which {type(self.mosaic[0]).__name__} does not; put DenseMosaic first'
            )
        self.mosaic_prob = mosaic_prob if self.mosaic else 0.0
        self._stage = SharedStage(DenseO2OStage(stage))

    @property
    def stage(self) -> DenseO2OStage:
        """DenseO2OStage: The stage, the same in all processes; may be set."""
        return self._stage.get()

    @stage.setter
    def stage(self, stage: int) -> None:
        self._stage.set(stage)

    def get_indexes(self, dataset: Sequence) -> List[int]:
        """Draws whether this image becomes a mosaic, and then the indexes of the other three.

        Args:
            dataset (Sequence): The data set to draw from.

        Returns:
            list[int]: Three indexes, or none.
        """
        if self.stage is not DenseO2OStage.MOSAIC or np.random.random() >= self.mosaic_prob:
            return []
        return self.mosaic[0].get_indexes(dataset)

    def transform(self, results: dict) -> Optional[dict]:
        """Sends an image through the transforms of the stage.

        Args:
            results (dict): An image with its annotations; a mosaic is made of it when
                ``mix_results`` holds others.

        Returns:
            dict | None: What the last transform returned; None asks for another image.

        Raises:
            ValueError: If nobody draws the images of a mosaic.
        """
        if self.stage is DenseO2OStage.MOSAIC and self.mosaic_prob and 'mix_results' not in results:
            raise ValueError(
                'DenseO2O got no mix_results, so there would never be a mosaic: put it into the '
                'pipeline of a MixedImageDataset around the data set, or set mosaic_prob=0'
            )
        if results.get('mix_results'):
            transforms = self.mosaic
        elif self.stage in (DenseO2OStage.MOSAIC, DenseO2OStage.CLASSIC):
            transforms = self.classic
        else:
            transforms = []
        for transform in transforms:
            results = transform(results)
            if results is None:
                return None
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(mosaic={self.mosaic}, classic={self.classic}, '
            f'mosaic_prob={self.mosaic_prob}, stage={self.stage.name})'
        )


def _build(transforms: Transforms) -> List[Callable]:
    return [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
