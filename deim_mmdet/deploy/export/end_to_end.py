# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A trained detector as one function of tensors: image in; boxes, scores and labels out."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import singledispatch
from typing import Callable, ContextManager, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.models.detectors import DDQDETR, GroundingDINO
from torch import Tensor

from deim_mmdet.models.dense_heads.rtdetr_head import top_detections
from deim_mmdet.models.detectors import RTDETR, YOLOv8
from deim_mmdet.models.layers.dfl_box_branch import flatten_levels

from ..metadata import DIVISOR
from .detection_transformers import (
    DetectionTransformer,
    gives_probabilities,
    top_queries,
    whole_image_predictions,
)
from .suppression import Suppression

PIXELS = ('normalized', 'float', 'uint8')
LAYOUTS = ('nchw', 'nhwc')
CHANNELS = ('rgb', 'bgr')


@dataclass(frozen=True)
class InputFormat:
    """What the exported model takes.

    Attributes:
        pixels (str): 'normalized': float32 as the network sees it; 'float': float32 in [0, 255];
            'uint8'. The last two are normalised inside.
        layout (str): 'nchw' or 'nhwc'.
        channels (str): 'rgb' or 'bgr'.
        resize (bool): Images of any size are resized inside (bilinear, without the low-pass filter
            that Pillow has) and boxes are in pixels of the image as it came.
        pad (bool): Images are padded inside, at the right and at the bottom, to multiples of 32.
        original_size (bool): A second input ``original_hw``, float32, shape (bs, 2): boxes are in
            pixels of an image of that size, of which the input is a resized version.
    """

    pixels: str = 'normalized'
    layout: str = 'nchw'
    channels: str = 'rgb'
    resize: bool = False
    pad: bool = False
    original_size: bool = False

    def __post_init__(self):
        for name, known in (('pixels', PIXELS), ('layout', LAYOUTS), ('channels', CHANNELS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}'
                )
        if self.resize and self.original_size:
            raise ValueError(
                'resize and original_size exclude each other: a model that resizes sees the '
                'original size itself'
            )


class EndToEnd(nn.Module):
    """Preprocessing, detector and post-processing as one module that can be traced.

    Args:
        detector (BaseDetector): Detector in evaluation mode.
        input_format (InputFormat): What it takes.
        network_hw (tuple[int, int], optional): Size to resize to, with ``input_format.resize``.
        mode (callable, optional): Context that the detector itself runs in, see :mod:`.tracing`.
        candidates (bool): Of YOLOv8, all candidates, before non-maximum suppression. Defaults to
            False.

    Raises:
        TypeError: A detector that :func:`raw_predictions` does not know.
        ValueError: ``candidates`` of a detector whose results need no suppression.
    """

    def __init__(
        self,
        detector: nn.Module,
        input_format: InputFormat = InputFormat(),
        network_hw: Optional[Tuple[int, int]] = None,
        mode: Callable[[], ContextManager] = nullcontext,
        candidates: bool = False,
    ) -> None:
        super().__init__()
        if raw_predictions.dispatch(type(detector)) is raw_predictions.dispatch(object):
            raise _unknown(detector)
        self.mode = mode
        self.detector = detector
        self.format = input_format
        self.network_hw = network_hw
        preprocessor = detector.data_preprocessor
        channels = torch.ones(3)
        mean = getattr(preprocessor, 'mean', 0 * channels)
        std = getattr(preprocessor, 'std', channels)
        self.register_buffer('mean', mean.reshape(-1, 1, 1) * channels[:, None, None])
        self.register_buffer('scale', 1 / (std.reshape(-1, 1, 1) * channels[:, None, None]))
        self.pad_value = getattr(preprocessor, 'pad_value', 0)
        self.max_per_img = max_detections(detector)
        suppressed = isinstance(detector, YOLOv8)
        if candidates and not suppressed:
            raise ValueError(
                f'{type(detector).__name__} finds objects once and has no candidates: leave '
                'candidates (--candidates) out'
            )
        self.suppression = None
        if suppressed and not candidates:
            self.suppression = Suppression.of(detector.test_cfg)
        self.select = top_queries if gives_probabilities(detector) else top_detections

    def forward(
        self, images: Tensor, original_hw: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Detections of a batch.

        Args:
            images (Tensor): As ``input_format`` says, shape (bs, 3, H, W) or (bs, H, W, 3).
            original_hw (Tensor, optional): Height and width to scale the boxes to, shape (bs, 2).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Boxes (bs, K, 4) ordered (x1, y1, x2, y2), in pixels,
            clipped to the image; scores (bs, K), falling, 0 where an image has fewer than K;
            labels (bs, K).
        """
        images = self.to_planes(images)
        image_wh = size_wh(images)
        if self.format.resize:
            images = F.interpolate(images, self.network_hw, mode='bilinear', align_corners=False)
        content_wh = size_wh(images)  # of the part of the network's input that is image
        images = self.normalize(images)
        if self.format.pad:
            images = self.pad(images)

        with self.mode():
            predictions = raw_predictions(self.detector, images)
            scores, labels, boxes = self.select(*predictions, self.max_per_img)
        # NOTE as the head does, but in tensors: from shares of the padded input to pixels
        boxes = torch.minimum(
            (boxes * size_wh(images).repeat(2)).clamp(min=0), content_wh.repeat(2)
        )
        if self.suppression is not None:
            boxes, scores, labels = self.suppression(boxes, scores, labels, content_wh.max())
        if self.format.resize:
            boxes = boxes * (image_wh / content_wh).repeat(2)
        if original_hw is not None:
            boxes = boxes * (original_hw.flip(-1) / content_wh).repeat(1, 2).unsqueeze(1)
        return boxes, scores, labels

    def to_planes(self, images: Tensor) -> Tensor:
        """Float pixels in the network's channel order, shape (bs, 3, H, W)."""
        if self.format.pixels == 'uint8':
            images = images.float()  # first: TensorRT does nothing else with bytes
        if self.format.layout == 'nhwc':
            images = images.permute(0, 3, 1, 2)
        if self.format.channels != network_channels(self.detector):
            images = images.flip(1)
        return images

    def normalize(self, images: Tensor) -> Tensor:
        if self.format.pixels == 'normalized':
            return images
        if self.mean.any():
            images = images - self.mean
        return images * self.scale

    def pad(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, below = -width % DIVISOR, -height % DIVISOR
        return F.pad(images, (0, right, 0, below), value=self.pad_value)


@singledispatch
def raw_predictions(detector: nn.Module, images: Tensor) -> Tuple[Tensor, Tensor]:
    """Class logits, shape (bs, N, C), and normalised boxes, shape (bs, N, 4), ordered (cx, cy, w,
    h), of normalised images, shape (bs, 3, H, W).

    Register an implementation for a detector of another kind.

    Raises:
        TypeError: There is none for this detector.
    """
    raise _unknown(detector)


def _unknown(detector: nn.Module) -> TypeError:
    return TypeError(
        f'{type(detector).__name__} cannot be exported directly. Detectors that can: RTDETR, '
        'DFINE, DEYO, YOLOv8, DNDETR, DNDeformableDETR, those of mmdet that have the stages of '
        'DetectionTransformer (DETR, ConditionalDETR, DABDETR, DeformableDETR, DINO), and their '
        'subclasses.'
    )


@raw_predictions.register
def _(detector: RTDETR, images: Tensor) -> Tuple[Tensor, Tensor]:
    cls_scores, bboxes = detector._forward(images)
    return cls_scores[-1], bboxes[-1]


@raw_predictions.register
def _(detector: YOLOv8, images: Tensor) -> Tuple[Tensor, Tensor]:
    levels = detector.extract_feat(images)
    cls_scores, distributions = detector.bbox_head(levels)
    bboxes = detector.bbox_head.box_branch.normalized_boxes(distributions, images.shape[-2:])
    return flatten_levels(cls_scores), bboxes


@raw_predictions.register
def _(detector: DetectionTransformer, images: Tensor) -> Tuple[Tensor, Tensor]:
    return whole_image_predictions(detector, images)


# these do more than their stages: they read text, or suppress boxes that overlap
for kind in (DDQDETR, GroundingDINO):
    raw_predictions.register(kind, raw_predictions.dispatch(object))


def max_detections(detector: nn.Module) -> int:
    """Detections per image; for a detector whose result is still to be suppressed, candidates."""
    if isinstance(detector, DetectionTransformer):
        return detector.bbox_head.test_cfg.get('max_per_img', detector.num_queries)
    if isinstance(detector, YOLOv8):
        return detector.test_cfg['nms_pre']
    return detector.bbox_head.max_per_img


@torch.no_grad()
def selection_strides(detector: nn.Module) -> Tuple[int, ...]:
    """Sides in pixels of the cells that queries are selected among; none where they are learnt."""
    if not isinstance(detector, RTDETR):
        return ()
    side = 4 * DIVISOR
    image = next(detector.parameters()).new_zeros(1, 3, side, side)
    return tuple(side // level.shape[-1] for level in detector.extract_feat(image))


def network_channels(detector: nn.Module) -> str:
    """Channel order that the network was trained with; images are read as BGR."""
    swaps = getattr(detector.data_preprocessor, '_channel_conversion', False)
    return 'rgb' if swaps else 'bgr'


def size_wh(images: Tensor) -> Tensor:
    """(width, height) of images (bs, C, H, W), float32, shape (2,); part of a trace."""
    height, width = images.shape[-2:]
    sides = [torch.as_tensor(side, device=images.device) for side in (width, height)]
    return torch.stack(sides).float()
