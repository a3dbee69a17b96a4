# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression inside the graph, for detectors that find objects several times."""

from typing import NamedTuple, Tuple

import torch
from mmcv.ops import nms
from torch import Tensor


class Suppression(NamedTuple):
    """What is left of candidates.

    Attributes:
        iou (float): Of two boxes of a class that overlap by more, the one of the lower score goes.
        min_score (float): Candidates must have more.
        max_per_img (int): How many are kept.
    """

    iou: float
    min_score: float
    max_per_img: int

    @classmethod
    def of(cls, test_cfg: dict) -> 'Suppression':
        """As a config of mmdet says.

        Raises:
            ValueError: A kind of suppression that the standard operator does not have.
        """
        unknown = {key: test_cfg['nms'][key] for key in test_cfg['nms'] if key != 'iou_threshold'}
        if unknown.pop('type', 'nms') != 'nms' or unknown:
            raise ValueError(
                "the graph can suppress by test_cfg.nms = dict(type='nms', iou_threshold=...), not "
                f'by {dict(test_cfg["nms"])}'
            )
        return cls(
            test_cfg['nms']['iou_threshold'], test_cfg.get('score_thr', 0), test_cfg['max_per_img']
        )

    def __call__(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, largest: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Suppress, class by class.

        Args:
            boxes (Tensor): Shape (bs, N, 4), ordered (x1, y1, x2, y2), not negative.
            scores (Tensor): Shape (bs, N), falling.
            labels (Tensor): Shape (bs, N).
            largest (Tensor): Scalar that no coordinate exceeds.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Boxes (bs, K, 4); scores (bs, K), falling; labels (bs,
            K). K = min(max_per_img, N); where fewer are left, the scores at the end are 0.
        """
        # boxes of two classes cannot overlap where each class has a place of its own
        apart = boxes + (labels * (largest + 1)).unsqueeze(-1)
        scores = _KeptScores.apply(apart, scores, *self)
        scores, index = scores.topk(min(self.max_per_img, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        return boxes, scores, labels.gather(1, index)


class _KeptScores(torch.autograd.Function):
    """Scores, shape (bs, N), 0 where a candidate goes; the operator takes one class."""

    @staticmethod
    def forward(ctx, boxes, scores, iou, min_score, max_per_img):
        if torch.jit.is_tracing():  # the operator takes its place, whatever the values are
            return scores.clone()
        kept = torch.zeros_like(scores)
        for i in range(len(scores)):
            index = nms(boxes[i], scores[i], iou, 0, min_score, max_per_img)[1]
            kept[i, index] = scores[i, index]
        return kept

    @staticmethod
    def symbolic(g, boxes, scores, iou, min_score, max_per_img):
        def constant(value, dtype):
            return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))

        selected = g.op(
            'NonMaxSuppression',
            boxes,
            g.op('Unsqueeze', scores, constant([1], torch.int64)),
            constant([max_per_img], torch.int64),
            constant([iou], torch.float32),
            constant([min_score], torch.float32),
        )  # (M, 3): image, class, candidate; readers differ in the order
        places = g.op('Gather', selected, constant([0, 2], torch.int64), axis_i=1)
        nothing = g.op('Mul', scores, constant(0.0, torch.float32))
        kept = g.op('ScatterND', nothing, places, g.op('GatherND', scores, places))
        return kept.setType(scores.type())
