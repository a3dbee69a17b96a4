# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from mmdet.registry import MODELS
from torch import Tensor

from .rtdetr_decoder import RTDETRDecoder


@MODELS.register_module()
class DEYODecoder(RTDETRDecoder):
    """RT-DETR's decoder for queries that begin with boxes, not with their logits.

    A box that YOLOv8 predicts may reach beyond the image; the first layer sees it as it is, and
    its logits are limited only when it is refined.

    In :meth:`forward`, ``references`` are normalised boxes, shape (bs, N, 4), ordered (cx, cy, w,
    h). The arguments are those of the parent.
    """

    def initial_boxes(self, references: Tensor) -> Tensor:
        # NOTE boxes already
        return references
