# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import List, Optional, Tuple

import torch.nn as nn
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from ..layers.box_query_selection import BoxQuerySelection
from ..layers.prediction_sets import PredictionSets
from ..layers.query_selection import SelectedQueries
from ..layers.yolov8_layers import YOLOV8_NORM
from ..task_modules.contrastive_denoising import DenoisingQueries
from .rtdetr import RTDETR, SpatialShapes


@MODELS.register_module()
class DEYO(RTDETR):
    """DEYO: RT-DETR's decoder on the features and the boxes of a YOLOv8 (2402.16370).

    Trained in two steps: a :class:`YOLOv8` from scratch, then, on its frozen backbone and neck
    (:class:`StagedFreezeHook`), the decoder. There is no transformer encoder.

    Source: the DEYO paper, not its implementation, with whose outputs it is compared. Differs from
    that: denoising groups do not see each other; the class branch of YOLOv8, of which nothing
    depends, is left out.

    Args:
        neck (dict): Neck config, with ``in_channels``; the levels that it returns have as many.
        bbox_head (dict): Head config, see :class:`DEYOHead`; ``in_channels`` are those of the neck.
        kwargs: Arguments of :class:`RTDETR`.
    """

    def __init__(self, neck: ConfigType, bbox_head: ConfigType, **kwargs):
        bbox_head = dict(bbox_head, in_channels=neck['in_channels'])
        super().__init__(neck=neck, bbox_head=bbox_head, **kwargs)

    def build_memory_projs(self, in_channels: List[int], embed_dims: int) -> nn.ModuleList:
        # NOTE the norms are YOLOv8's
        projs = super().build_memory_projs(in_channels, embed_dims)
        for proj in projs:
            proj.norm.eps, proj.norm.momentum = YOLOV8_NORM['eps'], YOLOV8_NORM['momentum']
        return projs

    def build_query_selection(
        self, num_classes: int, embed_dims: int, num_queries: int, **kwargs
    ) -> nn.Module:
        return BoxQuerySelection(num_classes, embed_dims, num_queries, **kwargs)

    def propose(self, batch_inputs: Tensor) -> Tuple[Tensor, SpatialShapes, SelectedQueries]:
        # NOTE queries begin with the box that YOLOv8 predicts at their token, RT-DETR's with an
        # anchor; the encoder's box loss trains the branch that predicts it
        levels = self.extract_feat(batch_inputs)
        memory, spatial_shapes = self.project(levels)
        bboxes = self.bbox_head.boxes_of_cells(levels, batch_inputs.shape[-2:])
        return memory, spatial_shapes, self.query_selection(memory, bboxes)

    def decode(
        self,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        selected: SelectedQueries,
        denoising: Optional[DenoisingQueries] = None,
    ) -> PredictionSets:
        # NOTE the decoder takes boxes, RT-DETR's their logits
        if denoising is not None:
            denoising = replace(denoising, references=denoising.references.sigmoid())
        return super().decode(memory, spatial_shapes, selected, denoising)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # imported here, because the conversion is built upon the models
        from deim_mmdet.convert.stage_one import take_stage_one

        # NOTE before published names are converted, which asks for all tensors
        if not prefix:
            take_stage_one(self, state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
