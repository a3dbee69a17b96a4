# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path
from typing import Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.config import Config

from deim_mmdet.models.detectors import YOLOv8
from deim_mmdet.version import __version__

from ..metadata import DIVISOR, Metadata, check_score_threshold
from .detection_transformers import DetectionTransformer
from .end_to_end import max_detections, network_channels, selection_strides
from .onnx_export import ExportOptions

# What mmdet's DetInferencer draws from.
SCORE_THRESHOLD = 0.3
KNOWN_RESIZE = ('scale', 'keep_ratio', 'backend', 'type', 'interpolation')
# Of a config that does not say what size its images have.
DEFAULT_HW = (640, 640)


def describe(
    detector: nn.Module,
    config: Config,
    options: ExportOptions,
    classes: Optional[Sequence[str]] = None,
    score_threshold: float = SCORE_THRESHOLD,
) -> Metadata:
    """What an exported file has to say about itself.

    Args:
        detector (BaseDetector): The detector.
        config (Config): Its config: images are prepared as its test pipeline does.
        options (ExportOptions): What kind of graph.
        classes (Sequence[str], optional): Class names; None: those of the checkpoint.
        score_threshold (float): Below it nothing is worth showing. Defaults to 0.3.

    Raises:
        ValueError: A test pipeline that resizes in a way that :class:`Detector` does not know, or
            options that do not go with it; a graph of dynamic size that is traced with fewer cells
            than queries.
    """
    if classes is None:
        classes = (getattr(detector, 'dataset_meta', None) or {}).get('classes')
    resize, pad_value = preparation(config)
    keep_ratio = bool(resize.get('keep_ratio', False))
    image_format = options.input_format
    if keep_ratio and (image_format.resize or image_format.original_size):
        raise ValueError(
            'images of this config keep their aspect and are padded: a graph that resizes '
            '(--resize) or scales boxes (--original-size) would stretch them. Leave both out; '
            'Detector does it outside the graph.'
        )
    preprocessor = detector.data_preprocessor
    normalises = getattr(preprocessor, '_enable_normalize', False)
    mean = preprocessor.mean.flatten().tolist() if normalises else [0.0] * 3
    std = preprocessor.std.flatten().tolist() if normalises else [1.0] * 3
    suppressed = isinstance(detector, YOLOv8)
    strides = selection_strides(detector) if options.dynamic_size else ()
    metadata = Metadata(
        version=__version__,
        model=Path(config.filename).stem if config.filename else type(detector).__name__,
        classes=tuple(classes) if classes else None,
        precision='float16' if options.half else 'float32',
        hw=tuple(options.hw),
        batch_size=options.batch_size,
        dynamic_size=options.dynamic_size,
        pixels=image_format.pixels,
        layout=image_format.layout,
        channels=image_format.channels,
        resize=image_format.resize,
        pad=image_format.pad,
        original_size=image_format.original_size,
        mean=tuple(mean),
        std=tuple(std),
        network_channels=network_channels(detector),
        keep_ratio=keep_ratio,
        resize_filter='pillow' if resize.get('backend') == 'pillow' else 'cv2',
        pad_value=pad_value,
        max_per_img=detector.test_cfg['max_per_img'] if suppressed else max_detections(detector),
        score_threshold=check_score_threshold(score_threshold),
        nms_iou=(
            detector.test_cfg['nms']['iou_threshold'] if suppressed and options.candidates else None
        ),
        num_queries=detector.num_queries if strides else 0,
        strides=strides,
    )
    metadata.refuse_few_cells(metadata.hw)  # the trace would keep fewer queries
    return metadata


def input_hw(config: Config, divisor: int = DIVISOR) -> Tuple[int, int]:
    """Height and width of the images of a config's test pipeline.

    Where images keep their aspect, what holds all that lie as its ``scale`` does.

    Args:
        config (Config): Without sizes in its test pipeline, ``image_hw`` counts.
        divisor (int): What both are rounded up to multiples of. Defaults to 32.
    """
    resize, _ = preparation(config)
    hw = config.get('image_hw', DEFAULT_HW)
    if 'scale' in resize:
        scale = resize['scale']
        hw = (scale, scale) if isinstance(scale, int) else scale[::-1]
    return tuple(math.ceil(side / divisor) * divisor for side in hw)


def padding_warning(detector: nn.Module, metadata: Metadata) -> Optional[str]:
    """What to say of a detector that masks padding, which its graph takes for image."""
    if not isinstance(detector, DetectionTransformer) or not metadata.keep_ratio:
        return None
    height, width = metadata.hw
    return (
        f'warning: images of this config keep their aspect, and Detector pads them to {height} x '
        f'{width}. {type(detector).__name__} masks padding, its graph takes it for image: boxes '
        'and scores of images of another aspect differ from PyTorch. Export with --hw of the '
        'aspect that your images have, or with --dynamic-size and open Detector(path, hw=(H, W)) '
        'of that aspect.'
    )


def preparation(config: Config) -> Tuple[dict, int]:
    """Settings of the test pipeline's Resize, and the grey of its Pad.

    Raises:
        ValueError: Either does what :class:`Detector` does not know.
    """
    resize, pad_value = {}, 0
    loader = config.get('test_dataloader') or {}
    for step in find_pipeline(loader.get('dataset') or {}):
        if step['type'] == 'Resize':
            unknown = [key for key in step if key not in KNOWN_RESIZE]
            if unknown or step.get('interpolation', 'bilinear') != 'bilinear':
                raise ValueError(f'Detector cannot resize as the test pipeline does: {step}')
            resize = dict(step)
        elif step['type'] == 'Pad':
            value = step.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, dict) else value
            values = set(value) if isinstance(value, (tuple, list)) else {value}
            if len(values) > 1:
                raise ValueError(f'padding must be grey, the test pipeline has {value}')
            pad_value = int(values.pop())
    return resize, pad_value


def find_pipeline(dataset: dict) -> list:
    """Transforms of a dataset, or of the one that it wraps."""
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset.get('pipeline', [])
