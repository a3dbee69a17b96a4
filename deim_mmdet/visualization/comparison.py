# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
from typing import Optional, Sequence

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
HEADER_HEIGHT = 30  # px


def compare_with_truth(
    image: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: Sequence[int],
    boxes: np.ndarray,
    labels: Sequence[int],
    scores: Sequence[float],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    score_threshold: float = 0.5,
    side: int = 560,
) -> np.ndarray:
    """Put the ground truth (left) and the predictions (right) of an image side by side.

    Args:
        image (np.ndarray): BGR, uint8, shape (h, w, 3).
        truth_boxes (np.ndarray): Boxes in pixels, shape (T, 4), ordered (x1, y1, x2, y2).
        truth_labels (Sequence[int]): Their labels, T of them.
        boxes (np.ndarray): Predicted boxes in pixels, shape (N, 4), ordered (x1, y1, x2, y2).
        labels (Sequence[int]): Their labels, N of them.
        scores (Sequence[float]): Their scores in [0, 1], N of them.
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[Sequence[int]]): RGB colour of each class, in [0, 255].
        score_threshold (float): Predictions below it are not drawn. Defaults to 0.5.
        side (int): The shorter side of each picture is enlarged to this many pixels. Defaults to
            560.

    Returns:
        np.ndarray: BGR, uint8.
    """
    keep = np.asarray(scores, dtype=np.float64) >= score_threshold
    pictures = []
    for title, shown, names, texts in (
        (f'ground truth: {len(truth_labels)}', truth_boxes, truth_labels, None),
        (
            f'predicted with score >= {score_threshold:g}: {int(keep.sum())}',
            np.asarray(boxes).reshape(-1, 4)[keep],
            np.asarray(labels, dtype=int)[keep],
            np.asarray(scores)[keep],
        ),
    ):
        picture = draw_boxes(image, shown, names, classes, palette, texts, side)
        header = np.full((HEADER_HEIGHT, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(header, title, (8, 21), FONT, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        pictures += [
            np.vstack([header, picture]),
            np.full((len(picture) + HEADER_HEIGHT, 8, 3), 255, np.uint8),
        ]
    return np.hstack(pictures[:-1])


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    scores: Optional[Sequence[float]] = None,
    side: int = 560,
) -> np.ndarray:
    """Enlarge an image and draw labelled boxes on it; arguments as for
    :func:`compare_with_truth`."""
    scale = max(1.0, side / min(image.shape[:2]))
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    boxes = np.rint(np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale).astype(int)
    order = range(len(boxes)) if scores is None else np.argsort(scores)  # the surest on top
    for i in order:
        x1, y1, x2, y2 = boxes[i].tolist()
        colour = tuple(int(value) for value in palette[labels[i]][::-1])
        text = classes[labels[i]] + ('' if scores is None else f' {scores[i]:.2f}')
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
        (width, height), _ = cv2.getTextSize(text, FONT, 0.5, 1)
        # Above the box, or inside where it touches the upper edge; never beyond the right one.
        x = max(0, min(x1 - 1, picture.shape[1] - width - 6))
        bottom = y1 if y1 >= height + 7 else min(y1 + height + 7, picture.shape[0])
        cv2.rectangle(
            picture, (x, bottom - height - 7), (x + width + 6, bottom), colour, cv2.FILLED
        )
        ink = (0, 0, 0) if np.dot(colour, (0.114, 0.587, 0.299)) > 140 else (255, 255, 255)
        cv2.putText(picture, text, (x + 3, bottom - 4), FONT, 0.5, ink, 1, cv2.LINE_AA)
    return picture
