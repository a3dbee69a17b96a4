# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How much of what one file finds another finds, where small differences are expected."""

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .detector import Detections, Detector, Image

# Detections of two files that overlap less are two things.
MIN_IOU = 0.5


@dataclass(frozen=True)
class Agreement:
    """What became of detections; the means are over those that were found again.

    Attributes:
        count (int): Detections of the first file.
        found (float): Share of them that the second finds, in [0, 1].
        extra (int): Detections that only the second has.
        iou (float): Mean overlap of the boxes, in [0, 1].
        score (float): Mean difference of the scores.
    """

    count: int
    found: float
    extra: int
    iou: float
    score: float

    @property
    def loss(self) -> float:
        """One number to order by: 0 where all is the same, 2 where nothing is."""
        return 2 * (1 - self.found) + self.found * (1 - self.iou + self.score)

    def __str__(self) -> str:
        return (
            f'{self.found:.1%} of {self.count} detections found again (IoU {MIN_IOU:g}, half the '
            f'score threshold) and {self.extra} others, mean IoU {self.iou:.3f}, mean difference '
            f'of scores {self.score:.3f}'
        )


def compare_files(first: Detector, second: Detector, images: Sequence[Image]) -> Agreement:
    """Compare what two files find in images.

    Args:
        first, second (Detector): Opened with a ``score_threshold`` of at most half of that in the
            metadata of ``first``, which says what counts: of two scores at a threshold, rounding
            decides which is above.
        images (Sequence[ndarray | str | PathLike]): Images.
    """
    threshold = first.metadata.score_threshold
    count, ious, scores, extra = 0, [], [], 0
    for image in images:
        one, other = first(image), second(image)
        count += int((one.scores >= threshold).sum())
        for iou, score in _matches(one, other, threshold):
            if iou >= MIN_IOU:
                ious.append(iou)
                scores.append(score)
        extra += sum(iou < MIN_IOU for iou, _ in _matches(other, one, threshold))
    return Agreement(
        count,
        len(ious) / count if count else 1.0,
        extra,
        float(np.mean(ious)) if ious else 1.0,
        float(np.mean(scores)) if scores else 0.0,
    )


def _matches(one: Detections, other: Detections, threshold: float):
    """(IoU, difference of scores) of each detection and the nearest of its class."""
    for box, score, label in zip(*one):
        if score < threshold:
            continue
        same = (other.labels == label) & (other.scores >= threshold / 2)
        if not same.any():
            yield 0.0, 1.0
            continue
        ious = overlaps(box, other.boxes[same])
        nearest = ious.argmax()
        yield float(ious[nearest]), float(abs(other.scores[same][nearest] - score))


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with others (K, 4), ordered (x1, y1, x2, y2); shape (K,)."""
    lower, upper = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    both = (upper - lower).clip(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (box[2:] - box[:2]).prod()
    return both / np.maximum(areas - both, np.finfo(np.float32).tiny)
