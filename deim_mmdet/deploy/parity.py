# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How far an exported file is from the detector in PyTorch."""

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn

from .detector import Detector
from .export.end_to_end import EndToEnd, InputFormat

# Detections below that score are noise, among which rounding decides; the best few always count.
MIN_SCORE, MIN_COUNT = 0.3, 10
# Of detections as near to the last score of a list, rounding decides which are still on it.
END_MARGIN = 0.01


@dataclass(frozen=True)
class Difference:
    """Largest differences between matched detections.

    Attributes:
        box (float): Largest difference of a side, in pixels of the output.
        score (float): Largest difference of a score.
        count (int): Detections that were compared.
        missing (int): Those among them without a counterpart of the same class.
    """

    box: float
    score: float
    count: int
    missing: int

    def within(self, box: float, score: float) -> bool:
        return not self.missing and self.box <= box and self.score <= score

    def __str__(self) -> str:
        text = f'{self.box:.3g} px, {self.score:.2g} of score, over {self.count} detections'
        return text + (f'; {self.missing} without a counterpart' if self.missing else '')


def compare_with_pytorch(
    detector: nn.Module, exported: Detector, images: Sequence[np.ndarray]
) -> Difference:
    """Run images through both, one by one.

    Args:
        detector (BaseDetector): The detector that was exported, in its training form.
        exported (Detector): The file.
        images (Sequence[ndarray]): Images, uint8, (H, W, 3), BGR.
    """
    meta = exported.metadata
    names = ('pixels', 'layout', 'channels', 'resize', 'pad', 'original_size')
    image_format = InputFormat(**{name: getattr(meta, name) for name in names})
    candidates = meta.nms_iou is not None
    module = EndToEnd(detector.eval(), image_format, meta.hw, candidates=candidates)
    device = next(detector.parameters()).device
    found = []
    for image in images:
        feeds = exported.feeds([image])[0]
        with torch.no_grad():
            expected = module(*(torch.from_numpy(v).to(device) for v in feeds.values()))
        actual = exported.runner.run(feeds)
        expected = [value[0].cpu().numpy() for value in expected]
        found.append(compare(expected, [value[0] for value in actual]))
    return Difference(
        max(d.box for d in found),
        max(d.score for d in found),
        sum(d.count for d in found),
        sum(d.missing for d in found),
    )


def compare(
    expected: Tuple[np.ndarray, np.ndarray, np.ndarray],
    actual: Tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Difference:
    """Compare (boxes, scores, labels) of one image; scores are falling.

    Each expected detection is compared with the one of its class whose box and score are nearest:
    rounding may change the order of detections. What is not finite is infinitely far.
    """
    boxes, scores, labels = expected
    least = max(MIN_SCORE, float(actual[1][-1]) + END_MARGIN)
    # a score of 0 is none
    count = max(int((scores >= least).sum()), min(MIN_COUNT, int((scores > 0).sum())))
    if not all(np.isfinite(value).all() for value in actual[:2]):
        return Difference(np.inf, np.inf, count, 0)
    box_error, score_error, missing = 0.0, 0.0, 0
    for box, score, label in zip(boxes[:count], scores[:count], labels[:count]):
        same = actual[2] == label
        if not same.any():
            missing += 1
            continue
        sides = np.abs(actual[0][same] - box).max(-1)
        points = np.abs(actual[1][same] - score)
        nearest = (sides + 100 * points).argmin()
        box_error = max(box_error, float(sides[nearest]))
        score_error = max(score_error, float(points[nearest]))
    return Difference(box_error, score_error, count, missing)
