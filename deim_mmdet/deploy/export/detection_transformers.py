# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The DETR family of mmdet, and what is built upon it here (DN-DETR), as functions of tensors."""

from types import SimpleNamespace
from typing import Tuple

import torch
import torch.nn as nn
from mmdet.models.detectors.base_detr import DetectionTransformer
from torch import Tensor

from deim_mmdet.ops.boxes import cxcywh_to_xyxy

# Names of the box branches in mmdet's heads.
BOX_BRANCHES = ('reg_branches', 'fc_reg')


def whole_image_predictions(
    detector: DetectionTransformer, images: Tensor
) -> Tuple[Tensor, Tensor]:
    """Class logits and boxes of the last decoder layer, by the stages of the detector.

    The stages mask what is padding, by the sizes in the data samples, and boxes are in units of the
    image without it. NOTE Here everything is image.

    Args:
        detector (DetectionTransformer): Detector in evaluation mode.
        images (Tensor): Normalised images, shape (bs, 3, H, W).

    Returns:
        tuple[Tensor, Tensor]: Class logits, shape (bs, N, C), and normalised boxes, shape (bs, N,
        4), ordered (cx, cy, w, h).
    """
    hw = tuple(images.shape[-2:])
    sample = SimpleNamespace(batch_input_shape=hw, img_shape=hw)
    # as forward_transformer, which hands on the share of each image that is no padding
    encoder_inputs, decoder_inputs = detector.pre_transformer(
        detector.extract_feat(images), [sample]
    )
    for inputs in (encoder_inputs, decoder_inputs):
        if 'valid_ratios' in inputs:
            inputs['valid_ratios'] = images.new_ones(1, len(inputs['spatial_shapes']), 2)
    encoder_outputs = detector.forward_encoder(**encoder_inputs)
    more_inputs, head_inputs = detector.pre_decoder(**encoder_outputs)
    head_inputs.update(detector.forward_decoder(**{**decoder_inputs, **more_inputs}))
    cls_scores, bboxes = detector.bbox_head(**head_inputs)
    return cls_scores[-1], bboxes[-1]


def prepare_trace(detector: DetectionTransformer) -> None:
    """Change a copy of a detector such that its trace is small and knows where to be precise."""
    detector.positional_encoding = PositionsOnce(detector.positional_encoding)
    for name in BOX_BRANCHES:
        branch = getattr(detector.bbox_head, name, None)
        for module in branch if isinstance(branch, nn.ModuleList) else filter(None, [branch]):
            # references, and so the locations that are sampled, are computed from boxes
            module.register_forward_hook(lambda module, args, out: out.float())


class PositionsOnce(nn.Module):
    """Positional encoding that is computed once for all images of a batch, which have no masks."""

    def __init__(self, encoding: nn.Module) -> None:
        super().__init__()
        self.encoding = encoding

    def forward(self, mask: None, input: Tensor) -> Tensor:
        """Feature map (bs, C, H, W) -> positions (bs, dims, H, W)."""
        one = torch.empty((1, 1, *input.shape[-2:]), device=input.device)
        return self.encoding(None, input=one).expand(input.shape[0], -1, -1, -1)


def gives_probabilities(detector: nn.Module) -> bool:
    """Whether the classes of a query, "no object" the last, exclude each other: DETR itself."""
    return not getattr(getattr(detector.bbox_head, 'loss_cls', None), 'use_sigmoid', True)


def top_queries(
    cls_scores: Tensor, bboxes: Tensor, max_per_img: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """The queries with the best probability of a class, each with that class alone.

    Args:
        cls_scores (Tensor): Class logits, "no object" the last, shape (bs, N, C + 1).
        bboxes (Tensor): Normalised boxes, shape (bs, N, 4), ordered (cx, cy, w, h).
        max_per_img (int): How many to keep.

    Returns:
        tuple[Tensor, Tensor, Tensor]: As of :func:`top_detections`.
    """
    scores, labels = cls_scores.float().softmax(-1)[..., :-1].max(-1)
    scores, query = scores.topk(min(max_per_img, scores.shape[1]), dim=1)
    bboxes = cxcywh_to_xyxy(bboxes.float()).gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
    return scores, labels.gather(1, query), bboxes
