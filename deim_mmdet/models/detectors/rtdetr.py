# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from collections import OrderedDict
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn as nn
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor

from deim_mmdet.models.layers.prediction_sets import PredictionSets
from deim_mmdet.models.layers.query_selection import QuerySelection, SelectedQueries
from deim_mmdet.models.task_modules.contrastive_denoising import DenoisingQueries
from deim_mmdet.models.task_modules.targets import BatchTargets

SpatialShapes = Tuple[Tuple[int, int], ...]


@MODELS.register_module()
class RTDETR(BaseDetector):
    """Real-time DETR: convolutional features, queries selected among their tokens, a decoder
    (2304.08069).

    RT-DETRv2 (2407.17140) is the same network with more options in the decoder, and DEIM trains it
    with another classification loss in the head (2412.04234). :class:`DFINE` builds on it.

    The number of classes is stated once, in ``bbox_head``.

    Args:
        backbone (dict): Backbone config.
        neck (dict): Encoder config; all its levels have the same number of channels.
        decoder (dict): Decoder config.
        bbox_head (dict): Head config: matching, losses and post-processing.
        num_queries (int): Queries per image N.
        query_selection (dict, optional): More arguments of :class:`QuerySelection`.
        denoising (dict, optional): Config of the denoising queries; None trains without them.
        train_cfg (dict, optional): Unused; accepted as every mmdet detector does.
        test_cfg (dict, optional): ``max_per_img``: detections kept per image.
        data_preprocessor (dict, optional): Config of the data preprocessor.
        init_cfg (dict, optional): Initialisation config.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType,
        decoder: ConfigType,
        bbox_head: ConfigType,
        num_queries: int = 300,
        query_selection: OptConfigType = None,
        denoising: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if num_queries < 1:
            raise ValueError(f'num_queries must be at least 1, got {num_queries}')
        self.num_queries = num_queries
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.bbox_head = MODELS.build(dict(bbox_head, test_cfg=test_cfg))
        num_classes = self.bbox_head.num_classes
        self.decoder = MODELS.build(dict(decoder, num_classes=num_classes))
        embed_dims = self.decoder.embed_dims
        self.memory_projs = self.build_memory_projs(self.neck.out_channels, embed_dims)
        self.query_selection = self.build_query_selection(
            num_classes, embed_dims, num_queries, **(query_selection or {})
        )
        self.denoising = None
        if denoising is not None:
            self.denoising = MODELS.build(
                dict(denoising, num_classes=num_classes, embed_dims=embed_dims)
            )
        # the method without underscore came with PyTorch 2.5
        self._register_load_state_dict_pre_hook(fit_weights, with_module=True)

    def build_memory_projs(self, in_channels: List[int], embed_dims: int) -> nn.ModuleList:
        """1x1 convolution and norm per encoder level, into the decoder's channels."""
        return nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(c, embed_dims, 1, bias=False), norm=nn.BatchNorm2d(embed_dims)
                )
            )
            for c in in_channels
        )

    def build_query_selection(
        self, num_classes: int, embed_dims: int, num_queries: int, **kwargs
    ) -> nn.Module:
        """What picks the tokens that become queries."""
        return QuerySelection(num_classes, embed_dims, num_queries, **kwargs)

    def init_weights(self):
        try:
            super().init_weights()
        except OSError as error:  # no network, or no such file
            raise OSError(
                f'initial weights could not be read ({error}). To begin without them, or where '
                'load_from brings all weights, set model.backbone.init_cfg=None.'
            ) from error
        for proj in self.memory_projs:
            if isinstance(proj, nn.Sequential):
                nn.init.xavier_uniform_(proj.conv.weight)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch_inputs (Tensor): Images, shape (bs, 3, H, W), H and W multiples of 32.
            batch_data_samples (list[DetDataSample]): Ground truth, boxes in pixels of the input.

        Returns:
            dict[str, Tensor]: Scalars; the set of keys is the same for every batch.
        """
        input_hw = tuple(batch_inputs.shape[-2:])
        targets = BatchTargets.from_data_samples(batch_data_samples, input_hw, batch_inputs.device)
        memory, spatial_shapes, selected = self.propose(batch_inputs)
        denoising = None
        if self.denoising is not None:
            denoising = self.denoising(targets, selected.content.shape[1])
        outputs = self.decode(memory, spatial_shapes, selected, denoising)
        if denoising is None:
            sets = outputs.prepend(selected.cls_scores, selected.bboxes)
            return self.bbox_head.loss(sets, targets)
        denoising_sets, outputs = outputs.split_queries(denoising.content.shape[1])
        sets = outputs.prepend(selected.cls_scores, selected.bboxes)
        return self.bbox_head.loss(sets, targets, denoising_sets, denoising)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detections of a batch, in ``pred_instances`` of every sample.

        Args:
            batch_inputs (Tensor): Images, shape (bs, 3, H, W), H and W multiples of 32.
            batch_data_samples (list[DetDataSample]): Meta information of the images.
            rescale (bool): Whether boxes are in pixels of the original image, or of the input.

        Returns:
            list[DetDataSample]: With ``bboxes`` (K, 4) as xyxy, ``scores`` (K,) falling,
                ``labels`` (K,).
        """
        cls_scores, bboxes = self._forward(batch_inputs)
        results = self.bbox_head.predict(cls_scores[-1], bboxes[-1], batch_data_samples, rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> Tuple[Tensor, Tensor]:
        """Raw predictions, without denoising queries.

        Returns:
            tuple[Tensor, Tensor]: Class logits, shape (S, bs, N, C), and normalised boxes, shape
            (S, bs, N, 4), ordered (cx, cy, w, h), each in [0, 1]; the final layer last. S counts
            the encoder, the initial box (D-FINE) and every layer in training, the final layer alone
            otherwise.
        """
        memory, spatial_shapes, selected = self.propose(batch_inputs)
        sets = self.decode(memory, spatial_shapes, selected)
        if self.training:
            sets = sets.prepend(selected.cls_scores, selected.bboxes)
        return sets.cls_scores, sets.bboxes

    def extract_feat(self, batch_inputs: Tensor) -> Tuple[Tensor, ...]:
        """Encoder levels, fine to coarse, each (bs, channels, H / stride, W / stride)."""
        return self.neck(self.backbone(batch_inputs))

    def propose(self, batch_inputs: Tensor) -> Tuple[Tensor, SpatialShapes, SelectedQueries]:
        """Tokens of all levels, their (H, W), and the queries that are picked among them."""
        memory, spatial_shapes = self.encode(batch_inputs)
        return memory, spatial_shapes, self.query_selection(memory, spatial_shapes)

    def encode(self, batch_inputs: Tensor) -> Tuple[Tensor, SpatialShapes]:
        """Tokens of all levels, (bs, sum of H*W, embed_dims), row-major, and their (H, W)."""
        return self.project(self.extract_feat(batch_inputs))

    def project(self, features: Tuple[Tensor, ...]) -> Tuple[Tensor, SpatialShapes]:
        """Tokens of the levels of :meth:`extract_feat`, and their (H, W)."""
        levels = [proj(x) for proj, x in zip(self.memory_projs, features)]
        spatial_shapes = tuple(tuple(level.shape[-2:]) for level in levels)
        # (bs, embed_dims, H, W) of each level -> (bs, sum of H*W, embed_dims)
        memory = torch.cat([level.flatten(2) for level in levels], dim=-1).transpose(1, 2)
        return memory, spatial_shapes

    def decode(
        self,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        selected: SelectedQueries,
        denoising: Optional[DenoisingQueries] = None,
    ) -> PredictionSets:
        """Run the decoder; denoising queries, if any, come before the selected ones."""
        content, references, attn_mask = selected.content, selected.references, None
        if denoising is not None:
            content = torch.cat([denoising.content.to(content.dtype), content], dim=1)
            references = torch.cat([denoising.references, references], dim=1)
            attn_mask = denoising.attn_mask
        return self.decoder(content, references, memory, spatial_shapes, attn_mask)


def fit_weights(module: nn.Module, state_dict: Dict[str, Tensor], prefix: str, *args):
    """Convert published weights as they are loaded, and refuse those of another model.

    Raises:
        ValueError: See :mod:`deim_mmdet.convert.on_load`.
    """
    # NOTE imported here, because the conversion is built upon the models
    from deim_mmdet.convert.on_load import convert_published, refuse_other_models

    if not prefix:
        convert_published(module, state_dict)
    refuse_other_models(module, state_dict, prefix)
