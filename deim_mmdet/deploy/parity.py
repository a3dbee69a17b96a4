# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""How far an exported file is from the detector in PyTorch."""

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from scipy.optimize import linear_sum_assignment

from .detector import Detector
from .export.end_to_end import EndToEnd, InputFormat

# Detections below that score are noise, among which rounding decides; the best few always count.
MIN_SCORE, MIN_COUNT = 0.3, 10
# Of detections as near to the last score of a list, rounding decides which are still on it.
END_MARGIN = 0.01
# A score that differs by 0.01 is as far as a side that differs by a pixel.
PIXELS_PER_SCORE = 100
# More than anything that is compared, and finite, as the assignment wants it.
NO_COUNTERPART = 1e9

Found = Tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Largest differences between matched detections.

    Attributes:
        box (float): Largest difference of a side, in pixels of the output.
        score (float): Largest difference of a score.
        count (int): Detections that were compared.
        missing (int): Those without a counterpart of the same class, on either side.
    """

    box: float
    score: float
    count: int
    missing: int

    def within(self, box: float, score: float) -> bool:
        """Whether it is no more than that; where nothing was compared, nothing is known."""
        enough = self.count > 0 and not self.missing
        return enough and self.box <= box and self.score <= score

    def __str__(self) -> str:
        if not self.count:
            return 'unknown, since neither finds anything'
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

    Returns:
        Difference: The largest of all images.
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
    return merge(found)


def merge(differences: Sequence[Difference]) -> Difference:
    """That of all together."""
    return Difference(
        # unlike max(), NumPy's keeps NaN
        float(np.max([d.box for d in differences])),
        float(np.max([d.score for d in differences])),
        sum(d.count for d in differences),
        sum(d.missing for d in differences),
    )


def compare(expected: Found, actual: Found) -> Difference:
    """Compare (boxes, scores, labels) of one image; scores are falling.

    Each of the detections that matter, of either side, has a counterpart of its own on the other
    one, of its class: those whose boxes and scores are nearest all in all, since rounding may
    change the order of detections. What is not finite is infinitely far.
    """
    count = max(_count(expected, actual), _count(actual, expected))
    if not all(np.isfinite(value).all() for found in (expected, actual) for value in found[:2]):
        return Difference(np.inf, np.inf, count, 0)
    there, back = _compare_best(expected, actual), _compare_best(actual, expected)
    return Difference(
        max(there.box, back.box),
        max(there.score, back.score),
        count,
        there.missing + back.missing,
    )


def _compare_best(ones: Found, others: Found) -> Difference:
    """Each of the best of the ones has a counterpart among all of the others."""
    count = _count(ones, others)
    boxes, scores, labels = (value[:count] for value in ones)
    real = others[1] > 0
    others = [value[real] for value in others]
    # (count, number of others)
    sides = np.abs(boxes[:, None] - others[0]).max(-1)
    points = np.abs(scores[:, None] - others[1])
    distance = np.where(
        labels[:, None] == others[2], sides + PIXELS_PER_SCORE * points, NO_COUNTERPART
    )
    rows, columns = linear_sum_assignment(distance)
    same = distance[rows, columns] < NO_COUNTERPART
    rows, columns = rows[same], columns[same]
    return Difference(
        float(sides[rows, columns].max(initial=0)),
        float(points[rows, columns].max(initial=0)),
        count,
        count - len(rows),
    )


def _count(ones: Found, others: Found) -> int:
    """How many of the ones, from the best on, surely have a counterpart if both are alike."""
    scores, ends = ones[1], others[1]
    least = max(MIN_SCORE, float(ends[-1]) + END_MARGIN) if len(ends) else MIN_SCORE
    # a score of 0 is none
    return max(int((scores >= least).sum()), min(MIN_COUNT, int((scores > 0).sum())))
