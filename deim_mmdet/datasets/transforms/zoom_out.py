# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Tuple

import numpy as np
from mmdet.datasets.transforms import Expand
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ZoomOut(Expand):
    """Puts the image at a random place on a larger canvas of one colour: mmdet's ``Expand``.

    ``Expand`` compares a tuple of means with a number, finds them unequal, and then fills the
    canvas value by value. A mean that is an array takes its fast way: 1 ms instead of 20 ms for an
    image of 640 x 480 pixels.

    Args:
        fill (int): Value of the canvas. Defaults to 0.
        side_range (tuple[float]): Sides of the canvas as a multiple of those of the image.
            Defaults to (1, 4).
        prob (float): How often it happens. Defaults to 0.5.
    """

    def __init__(
        self, fill: int = 0, side_range: Tuple[float, float] = (1.0, 4.0), prob: float = 0.5
    ):
        super().__init__(
            mean=np.full(3, fill), to_rgb=False, ratio_range=tuple(side_range), prob=prob
        )
